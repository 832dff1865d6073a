//! What the tests stand on: a scripted upstream, a raw client and the proxy as a child process.
//! Plain blocking sockets and no code of the crate, so that both cannot share a mistake.
mod bodies;
mod browser;
mod client;
mod dice;
pub mod load;
pub mod metrics;
pub mod names;
pub mod net;
pub mod network;
mod origin;
mod peer;
mod program;
mod proxy;
mod secrets;
pub mod sockets;
mod tls;
mod wire;

pub use bodies::{Pattern, chunked, pattern};
pub use browser::Browser;
pub use client::{Client, Cut};
pub use dice::Dice;
pub use net::{Vacant, full_backlog};
pub use origin::{Act, Origin, act, answers, closes, hangs, resets};
pub use peer::Peer;
pub use program::{Folder, Server, installed};
pub use proxy::{ACTIVATED, Proxy, run, run_by};
pub use secrets::{CANARY, assert_no_secret, shown_canary};
pub use tls::{Authority, Issued, Shown};
pub use wire::{Framing, Gone, Head, Request, Response, Stream, Wire, fields_without};

use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long anything may take that is expected to happen at once. Generous: tests share two cores.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// How long the proxy may take to react to an event, measured loosely.
pub const PROMPT: Duration = Duration::from_millis(500);

/// Settings for an upstream that hangs first: given up soon, and the last attempt has all the time
/// that a busy machine needs.
pub const RESCUE: [(&str, &str); 2] = [
    ("RESPONSE_HEADER_TIMEOUT_SECONDS", "0.2"),
    ("LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS", "30"),
];

/// A response as small as one can be.
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A request without a body.
pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: client.example\r\nCookie: {CANARY}\r\n\r\n")
}

/// A request to the admin listener, by a name that is nobody else's.
pub fn look_at(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// A request with a body, as Codex would send it.
pub fn post(target: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {target} HTTP/1.1\r\nhost: client.example\r\nauthorization: Bearer {CANARY}\r\n\
         content-type: application/json\r\naccept: text/event-stream\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The same body in chunks of `size` bytes.
pub fn post_chunked(target: &str, body: &[u8], size: usize) -> Vec<u8> {
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: client.example\r\nx-api-key: {CANARY}\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    [head.as_bytes(), &chunked(body, size)].concat()
}

/// The next message, within the deadline.
#[track_caller]
pub fn soon<T>(receiver: &Receiver<T>) -> T {
    match receiver.recv_timeout(DEADLINE) {
        Ok(message) => message,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("nothing happened within {DEADLINE:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("the other side is gone"),
    }
}

/// A growing list that threads can wait on.
pub struct Seen<T>(Arc<(Mutex<Vec<T>>, Condvar)>);

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Clone> Seen<T> {
    pub fn new() -> Self {
        Self(Arc::new((Mutex::new(Vec::new()), Condvar::new())))
    }

    pub fn push(&self, item: T) {
        let (items, grown) = &*self.0;
        items
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(item);
        grown.notify_all();
    }

    pub fn all(&self) -> Vec<T> {
        let (items, _) = &*self.0;
        items.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `found` says something of the list; `None` when that takes longer than `limit`.
    pub fn wait<R>(&self, limit: Duration, found: impl Fn(&[T]) -> Option<R>) -> Option<R> {
        let (items, grown) = &*self.0;
        let end = Instant::now() + limit;
        let mut items = items.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(result) = found(&items) {
                return Some(result);
            }
            let left = end.checked_duration_since(Instant::now())?;
            items = grown
                .wait_timeout(items, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}
