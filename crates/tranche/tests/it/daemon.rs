//! A daemon that answers from a script, over a real Unix socket.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use serde::Serialize;
use tranche_api::Problem;

/// A daemon that knows the answer to a few requests.
pub(crate) struct Daemon {
    dir: tempfile::TempDir,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    /// The answers to each request, in turn; the last one stays.
    answers: BTreeMap<String, Vec<Answer>>,
    /// What was asked, with the body.
    asked: Vec<String>,
}

#[derive(Clone)]
struct Answer {
    status: u16,
    /// The header that leads to the next page.
    next: Option<String>,
    body: Vec<u8>,
}

/// How the first page of a list is asked for. Scripts name such a request by its list.
const FIRST_PAGE: &str = "?limit=1000";

impl Daemon {
    /// A daemon that knows nothing yet.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let listener = UnixListener::bind(dir.path().join("tranche.sock")).expect("a socket");
        let script = Arc::new(Mutex::new(Script::default()));
        let shared = Arc::clone(&script);
        // It ends with the test's process; there is nothing to tidy up but the directory.
        thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.expect("a connection"), &shared);
            }
        });
        Self { dir, script }
    }

    /// It answers this request so; a second answer to the same request comes after the first.
    pub(crate) fn answers<T: Serialize + ?Sized>(self, request: &str, body: &T) -> Self {
        let body = serde_json::to_vec(body).expect("an answer is JSON");
        self.answers_raw(request, 200, &body)
    }

    /// It refuses this request.
    pub(crate) fn refuses(self, request: &str, problem: &Problem) -> Self {
        let body = serde_json::to_vec(problem).expect("a problem is JSON");
        self.answers_raw(request, problem.status, &body)
    }

    /// It answers this request with these bytes.
    pub(crate) fn answers_raw(self, request: &str, status: u16, body: &[u8]) -> Self {
        self.answers_so(request, Answer { status, next: None, body: body.to_vec() })
    }

    /// It answers this request with a page of a list, behind which there is another one.
    pub(crate) fn answers_page<T: Serialize + ?Sized>(self, request: &str, body: &T, next: &str) -> Self {
        let body = serde_json::to_vec(body).expect("an answer is JSON");
        self.answers_so(request, Answer { status: 200, next: Some(next.to_owned()), body })
    }

    fn answers_so(self, request: &str, answer: Answer) -> Self {
        self.script.lock().expect("no panic").answers.entry(request.to_owned()).or_default().push(answer);
        self
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("tranche.sock")
    }

    /// A directory for files that a test needs.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.script.lock().expect("no panic").asked.clone()
    }
}

fn serve(mut stream: UnixStream, script: &Mutex<Script>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("a request line");
    let request = line.trim_end().trim_end_matches(" HTTP/1.1").trim_end_matches(FIRST_PAGE).to_owned();
    let mut len = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).expect("a header");
        if header.trim_end().is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).expect("the whole body");
    let answer = answer(&request, &String::from_utf8_lossy(&body), script);
    let next = answer.next.map(|next| format!("link: <{next}>; rel=\"next\"\r\n")).unwrap_or_default();
    let head =
        format!("HTTP/1.1 {} Answer\r\n{next}content-length: {}\r\n\r\n", answer.status, answer.body.len());
    // The command may have gone, as it does when the answer is too long for it.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&answer.body));
}

fn answer(request: &str, body: &str, script: &Mutex<Script>) -> Answer {
    let mut script = script.lock().expect("no panic");
    script.asked.push(format!("{request} {body}").trim_end().to_owned());
    let unknown = || Answer {
        status: 500,
        next: None,
        body: format!("the test has no answer to {request}").into_bytes(),
    };
    match script.answers.get_mut(request) {
        Some(answers) if answers.len() > 1 => answers.remove(0),
        Some(answers) => answers[0].clone(),
        None => unknown(),
    }
}
