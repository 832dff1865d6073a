//! What the upstream sees of requests that might be taken for others.
use std::net::SocketAddr;

use super::requests::{self, Case, Then, Verdict};
use super::{final_response, in_lanes};
use crate::support::{Client, Origin, Peer, Proxy, Response, get};

/// What stands behind every case on its connection.
const CANARY: &str = "/canary";

/// How the bytes of a case arrive.
#[derive(Clone, Copy, Debug)]
enum Way {
    Whole,
    ByteByByte,
    Split(usize),
}

#[test]
fn a_request_is_one_request_or_refused() {
    play_all(&requests::cases(), "", |_| {
        vec![Way::Whole, Way::ByteByByte]
    });
}

#[test]
fn a_request_is_one_request_or_refused_wherever_it_is_split() {
    const SPLITS_MAX: usize = 32;
    play_all(&requests::cases(), "", |case| {
        let step = case.own.len() / SPLITS_MAX + 1;
        let places = case.own.start.max(1)..case.own.end + 3;
        places.step_by(step).map(Way::Split).collect()
    });
}

#[test]
fn a_request_stays_below_the_base_path_or_is_refused() {
    play_all(&requests::cases_below_a_path(), "/api", |_| {
        vec![Way::Whole]
    });
}

/// Plays all cases in all their ways.
fn play_all(cases: &[Case], base: &str, ways: impl Fn(&Case) -> Vec<Way> + Sync) {
    in_lanes(cases, |cases| {
        let mut lane = Lane::new(base);
        for case in cases {
            for way in ways(case) {
                lane.play(case, way);
            }
        }
        lane.compare();
    });
}

/// A proxy with one core and so with one pool, and a client that sees what others leave behind.
struct Lane {
    other: Client,
    proxy: Proxy,
    origin: Origin,
    answered: Answered,
}

/// The requests that were answered as the upstream answers them.
struct Answered {
    base: String,
    /// Of which case they are, their line and their body.
    all: Vec<(String, Vec<u8>, Vec<u8>)>,
}

impl Lane {
    fn new(base: &str) -> Self {
        let origin = Origin::serves(usize::MAX, echo);
        let url = format!("{}{base}", origin.url());
        let proxy = Proxy::start_at(&url, &[("WORKERS", "1")]);
        Self {
            other: Client::connect(&proxy),
            proxy,
            origin,
            answered: Answered {
                base: base.to_owned(),
                all: Vec::new(),
            },
        }
    }

    fn play(&mut self, case: &Case, way: Way) {
        let shown = String::from_utf8_lossy(&case.bytes[..case.bytes.len().min(300)]);
        let shown = format!("{shown:?} {way:?}");
        let bytes = [&case.bytes, get(CANARY).as_bytes()].concat();
        let mut client = Client::connect(&self.proxy);
        match way {
            Way::Whole => client.send(&bytes),
            Way::ByteByByte => bytes.iter().for_each(|byte| client.send([*byte])),
            Way::Split(at) => {
                client.send(&bytes[..at]);
                client.until_taken();
                client.send(&bytes[at..]);
            }
        }
        let answered = &mut self.answered;
        match case.verdict {
            Verdict::No(status) => assert_refused(&mut client, status, &shown),
            Verdict::Up { target, body, then } => {
                answered.add(&mut client, method(&case.bytes), target, body, &shown);
                match then {
                    Then::Goes => answered.add(&mut client, b"GET", CANARY.as_bytes(), b"", &shown),
                    Then::Ends => client.is_closed(),
                    Then::Fails => assert_refused(&mut client, 400, &shown),
                }
            }
        }
        drop(client); // fails on bytes that nobody asked for
        self.other.send(get("/other"));
        answered.add(&mut self.other, b"GET", b"/other", b"", &shown);
    }

    /// The upstream has seen what was answered and nothing else, in this order, and all of it clean.
    fn compare(self) {
        let seen = self.origin.requests();
        for (request, (shown, line, body)) in seen.iter().zip(&self.answered.all) {
            let text = request.head.text();
            let same = request.head.0.starts_with(line) && request.body == *body;
            assert!(same, "{shown}: upstream saw {text:?} {:?}", request.body);
            assert_clean(&request.head.0, self.origin.addr);
        }
        assert_eq!(seen.len(), self.answered.all.len());
    }
}

impl Answered {
    /// The request that `client` has sent must have gone up like this: it gets the answer to just that.
    fn add(&mut self, client: &mut Client, method: &[u8], target: &[u8], body: &[u8], shown: &str) {
        let line = [method, b" ", self.base.as_bytes(), target, b" HTTP/1.1"].concat();
        let response = response(client, method, shown);
        let expected = match method {
            b"HEAD" => Vec::new(),
            _ => [&line, body].concat(),
        };
        assert_eq!(response.status(), 200, "{shown}: {}", response.text());
        let text = response.text();
        assert!(response.body == expected, "{shown}: got {text:?}");
        self.all.push((shown.to_owned(), line, body.to_vec()));
    }
}

/// Answers each request with its own line and body.
fn echo(peer: &mut Peer) {
    while let Some(request) = peer.next_request() {
        let line_end = request.head.0.iter().position(|byte| *byte == b'\r');
        let content = [&request.head.0[..line_end.unwrap()], &request.body].concat();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            content.len()
        );
        let content = if content.starts_with(b"HEAD ") {
            Vec::new()
        } else {
            content
        };
        peer.send([head.as_bytes(), &content].concat());
    }
}

fn method(request: &[u8]) -> &[u8] {
    let start = request
        .iter()
        .position(|byte| !b"\r\n".contains(byte))
        .unwrap();
    request[start..].split(|byte| *byte == b' ').next().unwrap()
}

fn response(client: &mut Client, method: &[u8], shown: &str) -> Response {
    let response = final_response(client, std::str::from_utf8(method).unwrap());
    response.unwrap_or_else(|cut| panic!("{shown}: {cut:?}"))
}

/// The client is told so, and its connection ends.
fn assert_refused(client: &mut Client, status: u16, shown: &str) {
    let response = response(client, b"GET", shown);
    assert_eq!(response.status(), status, "{shown}: {}", response.text());
    let code = match status {
        405 => "method_not_allowed",
        413 => "request_body_too_large",
        414 => "uri_too_long",
        431 => "header_fields_too_large",
        _ => "bad_request",
    };
    response.assert_refusal(status, code);
    assert!(
        response.head.closes() && response.attempts().is_none(),
        "{shown}"
    );
    client.is_closed();
}

/// Nothing in `head` can be read in two ways.
fn assert_clean(head: &[u8], upstream: SocketAddr) {
    let text = String::from_utf8_lossy(head);
    let lines: Vec<&[u8]> = head.split(|byte| *byte == b'\n').collect();
    let [lines @ .., b"\r", b""] = &lines[..] else {
        panic!("it does not end with one empty line: {text:?}")
    };
    let mut names = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let line = line
            .strip_suffix(b"\r")
            .unwrap_or_else(|| panic!("a bare LF: {text:?}"));
        let visible = |byte: &u8| !matches!(byte, 0..=8 | 10..=31 | 127);
        assert!(line.iter().all(visible), "a control: {text:?}");
        if number == 0 {
            assert_eq!(
                line.iter().filter(|byte| **byte == b' ').count(),
                2,
                "{text:?}"
            );
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap();
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let in_token =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        assert!(!name.is_empty() && name.iter().all(in_token), "{text:?}");
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        match name.as_str() {
            "host" => assert_eq!(value, upstream.to_string().as_bytes(), "{text:?}"),
            "content-length" => assert!(value.iter().all(u8::is_ascii_digit), "{text:?}"),
            "connection" => assert_eq!(value, b"Upgrade", "{text:?}"),
            "upgrade" => assert_eq!(value, b"websocket", "{text:?}"),
            "transfer-encoding" | "te" | "trailer" | "expect" | "keep-alive"
            | "proxy-connection" => panic!("{name} has passed: {text:?}"),
            _ => (),
        }
        names.push(name);
    }
    let count = |name: &str| names.iter().filter(|other| *other == name).count();
    assert_eq!(count("host"), 1, "{text:?}");
    assert!(count("content-length") <= 1, "{text:?}");
    assert!(count("upgrade") <= 1, "{text:?}");
    assert_eq!(count("connection"), count("upgrade"), "{text:?}");
}
