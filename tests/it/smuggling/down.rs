//! What clients get of responses that might be taken for others, and whoever comes after them.
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};

use super::responses::{self, Case, EXCESSES, Then, Verdict};
use super::{final_response, in_lanes};
use crate::support::{Client, Origin, Peer, Proxy, get, soon};

/// What the upstream answers as it is told.
const CASE: &str = "/case";

#[test]
fn a_response_is_one_response_or_bad_wherever_it_is_split() {
    const SPLITS_MAX: usize = 32;
    in_lanes(&responses::cases(), |cases| {
        let mut lane = Lane::new();
        for case in cases {
            let step = case.own.len() / SPLITS_MAX + 1;
            for split in case.own.clone().step_by(step).chain([case.bytes.len()]) {
                lane.play(case, split);
            }
        }
    });
}

#[test]
fn bytes_behind_a_response_are_nobodys_whenever_they_come() {
    in_lanes(EXCESSES, |cases| {
        let mut lane = Lane::new();
        for (method, response, excess) in cases {
            for later in [false, true] {
                let shown = format!("{response:?} {excess:?} {later}");
                let mut client = lane.asks(method);
                let first = [*response, if later { "" } else { excess }].concat();
                lane.send(first.as_bytes());
                let seen = final_response(&mut client, method).unwrap();
                let has_hello = response.contains("hello");
                assert_eq!(seen.text(), if has_hello { "hello" } else { "" }, "{shown}");
                if later {
                    lane.send(excess.as_bytes());
                }
                lane.tell(Command::Serve);
                lane.all_get_their_own(client, Then::Ends, &shown);
            }
        }
    });
}

/// What an upstream that was asked for a case does next.
enum Command {
    Send(Vec<u8>),
    Close,
    /// It goes on as everybody would.
    Serve,
}

/// A proxy with one core and so with one pool, and a client that sees what others leave behind.
struct Lane {
    other: Client,
    proxy: Proxy,
    commands: Sender<Command>,
    sent: Receiver<usize>,
    /// The connection on which the upstream has sent the case.
    conn: usize,
    asked: usize,
    _origin: Origin,
}

impl Lane {
    fn new() -> Self {
        let (commands, commanded) = mpsc::channel();
        let (has_sent, sent) = mpsc::channel();
        let script = Mutex::new((commanded, has_sent));
        let origin = Origin::serves(usize::MAX, move |peer| {
            while let Some(request) = peer.next_request() {
                let line = request.head.line();
                if !line.contains(CASE) {
                    answer(peer, &line);
                } else if !obey(peer, &script) {
                    return;
                }
            }
        });
        let proxy = Proxy::start(&origin, &[("WORKERS", "1")]);
        Self {
            other: Client::connect(&proxy),
            proxy,
            commands,
            sent,
            conn: 0,
            asked: 0,
            _origin: origin,
        }
    }

    fn asks(&self, method: &str) -> Client {
        let mut client = Client::connect(&self.proxy);
        client.send(format!("{method} {CASE} HTTP/1.1\r\nHost: h\r\n\r\n"));
        client
    }

    fn tell(&self, command: Command) {
        self.commands.send(command).unwrap();
    }

    /// The upstream sends these bytes; they are with the proxy's kernel then.
    fn send(&mut self, bytes: &[u8]) {
        self.tell(Command::Send(bytes.to_vec()));
        self.conn = soon(&self.sent);
    }

    fn play(&mut self, case: &Case, split: usize) {
        let shown = String::from_utf8_lossy(&case.bytes[..case.bytes.len().min(300)]);
        let shown = format!("{} {shown:?} split at {split}", case.method);
        let mut client = self.asks(case.method);
        let (first, second) = case.bytes.split_at(split);
        self.send(first);
        self.send(second);
        self.tell(if case.closes {
            Command::Close
        } else {
            Command::Serve
        });
        let seen = final_response(&mut client, case.method);
        let then = match case.verdict {
            Verdict::Bad => {
                // A response is bad before it is complete, or it shows that it is cut.
                if let Ok(response) = seen {
                    assert_eq!(response.status(), 502, "{shown}: {}", response.text());
                    assert_eq!(response.attempts(), Some(1), "{shown}");
                }
                Then::Ends
            }
            Verdict::Passes(status, content, then) => {
                let response = seen.unwrap_or_else(|cut| panic!("{shown}: {cut:?}"));
                assert_eq!(response.status(), status, "{shown}: {}", response.text());
                assert_eq!(response.body, content, "{shown}");
                let length = response.head.field("content-length");
                let coding = response.head.field("transfer-encoding");
                assert!(length.is_none() || coding.is_none(), "{shown}");
                then
            }
        };
        self.all_get_their_own(client, then, &shown);
    }

    /// Whoever asks next gets the response to just that, on the same connection where it stays.
    fn all_get_their_own(&mut self, mut client: Client, then: Then, shown: &str) {
        let used = [client.is_usable().then_some(client), None];
        for client in used {
            self.asked += 1;
            let target = format!("/{}", self.asked);
            let is_client = client.is_some();
            let response = match client {
                Some(mut client) => client.exchange(get(&target)),
                None => self.other.exchange(get(&target)),
            };
            let text = response.text();
            let conn = text.strip_prefix(&format!("GET {target} HTTP/1.1 on "));
            let conn: usize = conn
                .unwrap_or_else(|| panic!("{shown}: {text:?}"))
                .parse()
                .unwrap();
            match then {
                Then::Ends => assert_ne!(conn, self.conn, "{shown}"),
                Then::Stays => assert!(!is_client || conn == self.conn, "{shown}: {conn}"),
            }
        }
    }
}

/// Does as it is told; whether it may serve again.
fn obey(peer: &mut Peer, script: &Mutex<(Receiver<Command>, Sender<usize>)>) -> bool {
    let (commands, sent) = &*script.lock().unwrap();
    loop {
        match soon(commands) {
            Command::Send(bytes) => {
                peer.until_taken();
                peer.send_if_taken(&bytes); // the proxy is free to close at once
                sent.send(peer.number).unwrap();
            }
            Command::Close => {
                peer.close();
                return false;
            }
            Command::Serve => return true,
        }
    }
}

/// Says which request on which connection is answered.
fn answer(peer: &mut Peer, line: &str) {
    let body = format!("{line} on {}", peer.number);
    let length = body.len();
    peer.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
}
