//! The peers that are installed here do what their configurations promise.
use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    process, thread,
};

use super::*;
use crate::{machine, origin};

#[test]
fn a_version_is_found_in_what_programs_say_of_themselves() {
    for (text, version) in [
        ("nginx version: nginx/1.22.1", "1.22.1"),
        (
            "HAProxy version 2.6.12-1+deb12u3 2025/10/03 - https://haproxy.org/",
            "2.6.12-1+deb12u3",
        ),
        (
            "v2.8.4 h1:q3pe0wpBj1OcHFZ3n/1nl4V4bxBrYoSoab7rL9BMYNk=",
            "2.8.4",
        ),
        (
            "envoy  version: 84305a6cb64bd55aaf606bdd53de7cd6080427a1/1.40.0/Clean",
            "1.40.0",
        ),
        ("codex-reset-proxy 0.1.0", "0.1.0"),
        ("no number", "unknown"),
    ] {
        assert_eq!(version_in(text), version);
    }
}

#[test]
fn every_place_of_a_configuration_is_filled_in() {
    let listen = "127.0.0.1:2".parse().expect("an address");
    let mut upstream = Upstream::plain("127.0.0.1:3".parse().expect("an address"));
    for tls in [false, true] {
        upstream.ca_file = tls.then(|| PathBuf::from("/ca.pem"));
        for (name, kind) in KNOWN {
            let (version, program) = ("2.6.2".to_owned(), PathBuf::new());
            let peer = Peer {
                name,
                version,
                program,
                kind,
            };
            let text = peer.config(listen, &upstream, 1, Path::new("/dir"));
            assert!(!text.contains("{{"), "{name}: {text}");
            assert!(
                text.is_empty() || text.contains("/ca.pem") == tls,
                "{name}: {text}"
            );
        }
    }
}

#[test]
fn every_installed_peer_forwards_a_request() {
    let peers = installed();
    for (name, _) in KNOWN {
        match peers.iter().find(|peer| peer.name == name) {
            // The relay is this package's own program, which a test is not.
            _ if name == "relay" => {}
            Some(peer) => forwards_a_request(peer),
            None => eprintln!("{name} IS NOT INSTALLED: its configuration is not tried"),
        }
    }
}

fn forwards_a_request(peer: &Peer) {
    let origin = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let upstream = Upstream::plain(origin.local_addr().expect("bound"));
    let served = thread::spawn(move || one_response(&origin));
    let port = machine::free_port().expect("one of thousands");
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    let dir = env::temp_dir().join(format!("bench-{}-{}", peer.name, process::id()));
    let running = peer
        .start(listen, &upstream, &[0], &dir)
        .unwrap_or_else(|error| panic!("{error}"));
    let response = request(listen, "/a?b=%20c").unwrap_or_else(|error| {
        panic!("{}: {error}; {}", peer.name, running.log_tail());
    });
    assert!(
        response.starts_with("HTTP/1.1 200 ") && response.ends_with("\r\n\r\nok"),
        "{response}"
    );
    let seen = served
        .join()
        .expect("it does not panic")
        .expect("a request");
    assert!(
        seen.starts_with("POST /a?b=%20c HTTP/1.1\r\n") && seen.ends_with("hello"),
        "{seen}"
    );
    assert!(
        seen.contains(&upstream.addr.to_string()),
        "Host is the upstream's: {seen}"
    );
    drop(running);
    fs::remove_dir_all(dir).expect("it was made");
}

#[test]
fn every_installed_peer_asks_a_silent_upstream_again() {
    let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let origin = origin::start(loopback(0), None, None).expect("loopback");
    let mut upstream = Upstream::plain(origin.addr);
    upstream.response_timeout = Duration::from_millis(300);
    let can = |peer: &&Peer| peer.kind != Kind::Relay && !peer.is_caddy_before_2_7();
    for peer in installed().iter().filter(can) {
        let dir = env::temp_dir().join(format!("bench-silent-{}-{}", peer.name, process::id()));
        let listen = loopback(machine::free_port().expect("one of thousands"));
        let running = peer.start(listen, &upstream, &[], &dir);
        let running = running.unwrap_or_else(|error| panic!("{error}"));
        let response = request(listen, &format!("/plan/{}/silent,ok", peer.name));
        let (name, log) = (peer.name, running.log_tail());
        let response = response.unwrap_or_else(|error| panic!("{name}: {error}; {log}"));
        assert!(
            response.starts_with("HTTP/1.1 200 "),
            "{name}: {response}; {log}"
        );
        let bodies = origin
            .ledger
            .arrivals(name)
            .into_iter()
            .map(|arrival| arrival.body);
        let hash = origin::hash(origin::EMPTY, b"hello");
        assert_eq!(bodies.collect::<Vec<_>>(), [Some(hash); 2], "{name}");
        drop(running);
        fs::remove_dir_all(dir).expect("it was made");
    }
}

fn request(addr: SocketAddr, target: &str) -> io::Result<String> {
    let mut conn = TcpStream::connect(addr)?;
    conn.set_read_timeout(Some(Duration::from_secs(10)))?;
    let head = format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 5");
    conn.write_all(format!("{head}\r\nConnection: close\r\n\r\nhello").as_bytes())?;
    let mut response = String::new();
    conn.read_to_string(&mut response)?;
    Ok(response)
}

/// Some peers connect ahead, or to see whether the origin is there: those connections just end.
fn one_response(origin: &TcpListener) -> io::Result<String> {
    loop {
        let (mut conn, _) = origin.accept()?;
        let mut request = Vec::new();
        let mut piece = [0; 4096];
        while !request.ends_with(b"hello") {
            match conn.read(&mut piece)? {
                0 => break,
                n => request.extend_from_slice(&piece[..n]),
            }
        }
        if !request.is_empty() {
            conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            return Ok(String::from_utf8_lossy(&request).into_owned());
        }
    }
}
