//! Consoles of VMs over WebSockets: what is typed comes back, who is refused, and how one ends. The guests are made up.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{WebSocketStream, client_async};
use tranche_core::inventory::Console;
use tranche_core::name::VmName;
use tranche_host::fake::Machine;

use crate::served::{DEADLINE, Served};

type Socket = WebSocketStream<UnixStream>;

/// What a WebSocket goes over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

fn desk() -> VmName {
    "desk".parse().unwrap()
}

/// A daemon with a VM that runs.
async fn with_desk() -> Served {
    let served = Served::start(Machine::preset("gpus").unwrap()).await;
    let hardware = json!({ "vcpus": 1, "memory_mib": 64, "firmware": "bios" });
    let made = served.post("/v1/vms", &json!({ "name": "desk", "hardware": hardware })).await;
    assert_eq!(made.status, 202, "{}", made.text);
    assert_eq!(served.post("/v1/vms/desk/start", &json!({})).await.status, 202);
    served
        .until("it runs", |view| {
            let domain = view.inventory.values().find_map(|host| host.domain(&desk()).cloned());
            domain.is_some_and(|domain| domain.consoles.contains(&Console::Serial))
        })
        .await;
    served
}

async fn open(served: &Served, path: &str) -> Result<Socket, Error> {
    let opening = client_async(format!("ws://localhost{path}"), served.connect().await);
    tokio::time::timeout(DEADLINE, opening).await.expect("an answer").map(|(socket, _)| socket)
}

/// What comes until this has come.
pub(crate) async fn hear<S: Stream>(socket: &mut WebSocketStream<S>, until: &str) -> String {
    let mut heard = String::new();
    while !heard.contains(until) {
        let message = tokio::time::timeout(DEADLINE, socket.next()).await.expect("it says something");
        match message.expect("it is open").unwrap() {
            Message::Binary(bytes) => heard.push_str(&String::from_utf8_lossy(&bytes)),
            Message::Close(frame) => panic!("it was closed after {heard:?}: {frame:?}"),
            _ => {}
        }
    }
    heard
}

/// Why it was closed.
pub(crate) async fn end_of<S: Stream>(mut socket: WebSocketStream<S>) -> String {
    loop {
        let message = tokio::time::timeout(DEADLINE, socket.next()).await.expect("it ends");
        if let Message::Close(frame) = message.expect("it says goodbye").unwrap() {
            return frame.expect("it says why").reason.to_string();
        }
    }
}

/// The status that a WebSocket was refused with.
fn status(refused: Result<Socket, Error>) -> u16 {
    match refused {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("it was not refused: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_typed_comes_back_and_the_audit_log_has_who_opened_it() {
    let served = with_desk().await;
    let mut serial = open(&served, "/v1/vms/desk/console").await.unwrap();
    hear(&mut serial, "made up").await;
    serial.send(Message::binary(b"hello\r".to_vec())).await.unwrap();
    hear(&mut serial, "hello\r\n").await;
    let mut screen = open(&served, "/v1/vms/desk/screen").await.unwrap();
    assert_eq!(hear(&mut screen, "\n").await, "RFB 003.008\n");
    let log = served.get("/v1/audit").await.json();
    let opened = |what: &str| {
        let entry = log.as_array().unwrap().iter().find(|entry| entry["what"] == what).unwrap();
        (entry["status"].as_u64().unwrap(), entry["outcome"].as_str().unwrap().to_owned())
    };
    assert_eq!(opened("GET /v1/vms/desk/console"), (101, "serial console of VM desk opened".to_owned()));
    assert_eq!(opened("GET /v1/vms/desk/screen"), (101, "screen of VM desk opened".to_owned()));
}

#[tokio::test]
async fn a_serial_console_is_one_persons_until_it_is_taken_over_or_closed() {
    let served = with_desk().await;
    let mut first = open(&served, "/v1/vms/desk/console").await.unwrap();
    hear(&mut first, "made up").await;
    assert_eq!(status(open(&served, "/v1/vms/desk/console").await), 409);
    let mut second = open(&served, "/v1/vms/desk/console?force=true").await.unwrap();
    hear(&mut second, "made up").await;
    assert!(end_of(first).await.contains("took it over"));
    second.close(None).await.unwrap();
    while second.next().await.is_some_and(|message| message.is_ok()) {}
    let again = async {
        while open(&served, "/v1/vms/desk/console").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, again).await.expect("it is free again");
}

#[tokio::test]
async fn a_console_ends_with_its_vm_and_one_that_is_off_or_unknown_has_none() {
    let served = with_desk().await;
    let serial = open(&served, "/v1/vms/desk/console").await.unwrap();
    assert_eq!(served.post("/v1/vms/desk/stop", &json!({ "force": true })).await.status, 202);
    assert!(end_of(serial).await.contains("turned off"));
    assert_eq!(status(open(&served, "/v1/vms/desk/screen").await), 409);
    assert_eq!(status(open(&served, "/v1/vms/nobody/console").await), 404);
    assert_eq!(status(open(&served, "/v1/vms/desk/screen?force=true").await), 422);
    assert_eq!(served.get("/v1/vms/desk/console").await.problem(), (426, "invalid_request".to_owned()));
}

#[tokio::test]
async fn a_message_that_is_too_long_closes_the_console() {
    let served = with_desk().await;
    let mut serial = open(&served, "/v1/vms/desk/console").await.unwrap();
    // It may be closed before all of it is sent.
    let _ = serial.send(Message::binary(vec![b'x'; 128 << 10])).await;
    let ended = async { while serial.next().await.is_some_and(|message| message.is_ok()) {} };
    tokio::time::timeout(DEADLINE, ended).await.expect("it ends");
}
