//! Everything at once: whatever goes wrong around it, each client gets its own response or an error,
//! no request is sent more often than allowed, and nothing is left behind.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::net::eventually;
use crate::support::{Authority, Client, Dice, Origin, Peer, Proxy, get, pattern, post};

const CLIENTS: usize = 12;
const REQUESTS: usize = 25;
const KINDS: [&str; 10] = [
    "ok", "hang", "reset", "close", "half", "cut", "late", "large", "stream", "last",
];
const LARGE: usize = 300_000;

type Sent = Arc<Mutex<HashMap<String, u32>>>;

/// Answers by what the target asks for; `hang`, `reset` and `close` only at the first sending.
fn serve(peer: &mut Peer, sent: &Sent) {
    while let Some(request) = peer.next_whole_request() {
        let line = request.head.line();
        let target = line.split(' ').nth(1).unwrap().to_owned();
        let kind = target.split('/').nth(1).unwrap();
        let times = {
            let mut sent = sent.lock().unwrap();
            let times = sent.entry(target.clone()).or_default();
            *times += 1;
            *times
        };
        let length = target.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        match kind {
            "hang" if times == 1 => {
                peer.is_closed_after();
                return;
            }
            "reset" if times == 1 => return peer.reset(),
            "close" if times == 1 => return peer.close(),
            "half" => {
                peer.send_if_taken(&head.as_bytes()[..20]);
                return peer.close();
            }
            "cut" => {
                peer.send_if_taken(format!("{head}{}", &target[..length - 1]).as_bytes());
                return peer.close();
            }
            "large" => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
                peer.send_if_taken(&[head.as_bytes(), &pattern().bytes(LARGE)].concat());
            }
            "stream" => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                peer.send_if_taken(head.as_bytes());
                for byte in target.chars() {
                    peer.send_if_taken(format!("1\r\n{byte}\r\n").as_bytes());
                }
                peer.send_if_taken(b"0\r\n\r\n");
            }
            "last" => {
                let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
                peer.send_if_taken(format!("{head}{target}").as_bytes());
                return peer.close_with_notify();
            }
            _ => _ = peer.send_if_taken(format!("{head}{target}").as_bytes()),
        }
    }
}

/// One exchange, checked; or one that the client gives up somewhere.
fn exchange(client: &mut Client, kind: &str, target: &str, dice: u64) {
    let request = match dice % 3 {
        0 => get(target).into_bytes(),
        _ => post(target, &pattern().bytes(dice as usize % 70_000)),
    };
    client.send(&request);
    if dice.is_multiple_of(7) {
        return match dice % 2 {
            0 => _ = client.leave(),
            _ => _ = client.reset(),
        };
    }
    match client.try_response("GET") {
        Err(cut) => {
            assert_eq!(kind, "cut", "{target}: {cut:?}");
            let came = String::from_utf8(cut.body).unwrap();
            assert!(target.starts_with(&came), "{target}: {came}");
        }
        Ok(response) if kind == "half" => {
            response.assert_refusal(502, "upstream_bad_response");
        }
        Ok(response) => {
            assert_ne!(kind, "cut", "{target}: complete");
            assert_eq!(response.status(), 200, "{target}: {}", response.text());
            match kind {
                "large" => pattern().check(0, &response.body),
                _ => assert_eq!(response.text(), target),
            }
            let faulty = matches!(kind, "hang" | "reset" | "close");
            let attempts = response.attempts().unwrap();
            assert_eq!(attempts, if faulty { 2 } else { 1 }, "{target}");
        }
    }
}

fn storm(proxy: &Proxy) {
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            scope.spawn(move || {
                let mut dice = Dice::new(number as u64);
                let mut client = Client::connect(proxy);
                for turn in 0..REQUESTS {
                    let kind = dice.of(&KINDS);
                    let target = format!("/{kind}/{number}/{turn}");
                    exchange(&mut client, kind, &target, dice.next());
                    if !client.is_usable() {
                        client = Client::connect(proxy);
                    }
                }
            });
        }
    });
}

fn weather(origin: &Origin, sent: &Sent, settings: &[(&str, &str)]) {
    let all = [&[("RESPONSE_HEADER_TIMEOUT_SECONDS", "1")], settings].concat();
    let proxy = Proxy::start(origin, &all);
    let descriptors = proxy.descriptors();
    storm(&proxy);
    eventually("all connections are closed", || proxy.clients() == 0);
    let sent = sent.lock().unwrap();
    let most = sent.iter().max_by_key(|(_, times)| **times).unwrap();
    // Two attempts, and one sending that a stale connection did not take.
    assert!(*most.1 <= 3, "{most:?}");
    let idle = || proxy.sockets_to(origin.addr);
    // A pipe or two may be kept for the next splice.
    eventually("descriptors return", || {
        proxy.descriptors() <= descriptors + idle() + 16
    });
}

#[test]
fn every_client_gets_its_own_response_or_an_error() {
    let sent = Sent::default();
    let counted = sent.clone();
    let origin = Origin::serves(CLIENTS * REQUESTS * 2, move |peer| serve(peer, &counted));
    weather(&origin, &sent, &[]);
}

#[test]
fn every_client_gets_its_own_response_or_an_error_over_tls() {
    let sent = Sent::default();
    let counted = sent.clone();
    let authority = Authority::new();
    let play = move |peer: &mut Peer| serve(peer, &counted);
    let origin = Origin::serves_tls(&authority, CLIENTS * REQUESTS * 2, play);
    weather(&origin, &sent, &[("UPSTREAM_CA_FILE", authority.file())]);
}
