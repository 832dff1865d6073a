//! What the proxy is for, in ten seconds: an upstream that falls silent, with the proxy and without.
use std::{
    env, fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::{
    machine,
    origin::{self, Arrival, Origin},
    peers::{self, Upstream},
    report::OURS,
};

/// Silence after which the proxy asks again: 30 s unless told otherwise, which would take too long.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the client waits. SDKs wait for ten minutes.
const CLIENT_PATIENCE: Duration = Duration::from_secs(4);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const BODY: &str = r#"{"model": "any", "input": "Tell me a story", "stream": false}"#;

pub fn run() -> Result<(), String> {
    peers::build_proxy()?;
    let proxy = peers::installed()
        .into_iter()
        .find(|peer| peer.name == OURS);
    let proxy = proxy.ok_or("the proxy was built, but is not there")?;
    let scratch = env::temp_dir().join(format!("bench-demo-{}", std::process::id()));
    let told = tell(&proxy, &scratch);
    // Left behind, it is one small log in a place for such.
    let _ = fs::remove_dir_all(&scratch);
    told
}

fn tell(proxy: &peers::Peer, scratch: &Path) -> Result<(), String> {
    let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let text = |error: io::Error| error.to_string();
    let origin = origin::start(loopback(0), None, None).map_err(text)?;
    let listen = loopback(machine::free_port().map_err(text)?);
    let mut upstream = Upstream::plain(origin.addr);
    upstream.response_timeout = RESPONSE_TIMEOUT;
    let _running = proxy.start(listen, &upstream, &[], scratch)?;

    println!("\nThe upstream takes a request and never answers it. Asked again, it would.");
    println!("\nWithout the proxy");
    act(&origin, origin.addr, "/plan/alone/silent,ok")?;
    println!(
        "\nThrough the proxy, RESPONSE_HEADER_TIMEOUT_SECONDS={}",
        RESPONSE_TIMEOUT.as_secs()
    );
    act(&origin, listen, "/plan/rescued/silent,ok")?;
    println!(
        "\nThe upstream breaks off in the middle of a response. Part of it has been delivered:"
    );
    println!("a second one must not be mixed into it.");
    println!("\nThrough the proxy");
    act(&origin, listen, "/plan/begun/cut,ok")?;
    Ok(())
}

/// Sends one request to `target` and prints what happens as it happens.
fn act(origin: &Origin, target: SocketAddr, path: &'static str) -> Result<(), String> {
    let id = path.split('/').nth(2).expect("paths of plans carry an ID");
    let begun = Instant::now();
    let line = |at: Instant, who: &str, what: &str| {
        println!(
            "{:>8.3} s  {who:<9} {what}",
            at.saturating_duration_since(begun).as_secs_f64()
        );
    };
    line(
        begun,
        "client",
        &format!("sends POST {path}, {} bytes", BODY.len()),
    );
    let client = thread::spawn(move || request(target, path));
    let (mut arrived, mut answered) = (0, 0);
    loop {
        let ended = client.is_finished();
        let arrivals = origin.ledger.arrivals(id);
        for arrival in &arrivals[arrived..] {
            line(
                arrival.at,
                "upstream",
                arrives(arrived, arrival, &arrivals[0]),
            );
            arrived += 1;
        }
        let answers = arrivals.iter().filter_map(|arrival| arrival.answered);
        for at in answers.skip(answered) {
            line(at, "upstream", "begins to answer");
            answered += 1;
        }
        if ended {
            break;
        }
        thread::sleep(LOOK_AGAIN);
    }
    let end = client.join().map_err(|_| "the client panicked")?;
    line(Instant::now(), "client", &end);
    Ok(())
}

fn arrives(number: usize, arrival: &Arrival, first: &Arrival) -> &'static str {
    match number {
        0 => "receives it",
        _ if arrival.body == first.body => "receives the same bytes again, on a new connection",
        _ => "receives something else",
    }
}

/// What the client sees, in words.
fn request(target: SocketAddr, path: &str) -> String {
    let mut response = Vec::new();
    let end = exchange(target, path, &mut response);
    let (head, body) = match response.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
        Some(at) => (
            String::from_utf8_lossy(&response[..at]).into_owned(),
            response.len() - at - 4,
        ),
        None => (String::new(), 0),
    };
    let mut fields = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "));
    let length = fields
        .clone()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    let attempts = fields.find(|(name, _)| *name == "x-codex-reset-proxy-attempts");
    let status = head.split(' ').nth(1).unwrap_or_default();
    match end {
        Err(_) if response.is_empty() => {
            "gives up: it has nothing, and would still be waiting".to_owned()
        }
        _ if body < length => {
            format!("has {status} and {body} of {length} bytes, and sees it broken off")
        }
        _ => {
            let attempts = attempts.map_or("?", |(_, value)| value);
            format!("has {status} and all {body} bytes; x-codex-reset-proxy-attempts: {attempts}")
        }
    }
}

fn exchange(target: SocketAddr, path: &str, response: &mut Vec<u8>) -> io::Result<()> {
    let mut conn = TcpStream::connect(target)?;
    conn.set_read_timeout(Some(CLIENT_PATIENCE))?;
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    let kind = "Content-Type: application/json\r\n";
    conn.write_all(format!("{head}{kind}Content-Length: {}\r\n\r\n{BODY}", BODY.len()).as_bytes())?;
    conn.read_to_end(response).map(|_| ())
}
