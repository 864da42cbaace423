//! The event stream, seen by its readers.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tranche_host::fake::Machine;

use crate::served::{DEADLINE, Served};
use crate::stories::{GPU, split};

/// Reads events one by one.
struct Reader {
    body: Incoming,
    text: String,
}

impl Reader {
    async fn open(served: &Served) -> Self {
        let response = served.exchange(Method::GET, "/v1/events", None, None).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), text: String::new() }
    }

    /// The data of the next event `change`; none at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned);
                assert!(event.lines().any(|line| line == "event: change"), "{event}");
                self.text = rest.to_owned();
                return Some(serde_json::from_str(&data.unwrap()).unwrap());
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await.expect("an event")?.unwrap();
            self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_what_changed_and_the_end() {
    let served = Served::start(Machine::gpus(1, 8)).await;
    let mut reader = Reader::open(&served).await;
    let first = reader.next().await.unwrap();
    assert_eq!(first["subjects"], json!([{"kind": "installation"}]), "all is new to a new reader");
    assert_eq!(served.put(&format!("{GPU}/mode"), &split(4)).await.status, 202);
    let gpu = json!({"kind": "gpu", "name": "node1/0000:10:00.0"});
    let mut revision = first["revision"].as_u64().unwrap();
    loop {
        let event = reader.next().await.unwrap();
        assert!(event["revision"].as_u64().unwrap() > revision);
        revision = event["revision"].as_u64().unwrap();
        if event["subjects"].as_array().unwrap().contains(&gpu) {
            break;
        }
    }
    let ended = async { while reader.next().await.is_some() {} };
    let (stopped, ()) = tokio::join!(served.stop(), ended);
    stopped.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_stops_although_somebody_reads_events_and_does_not_listen() {
    let served = Served::start(Machine::gpus(1, 8)).await;
    let _deaf = served.exchange(Method::GET, "/v1/events", None, None).await;
    let stopped = tokio::time::timeout(Duration::from_secs(20), served.stop()).await;
    stopped.expect("it stops").unwrap();
}
