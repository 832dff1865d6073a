//! Listeners that somebody else has opened and hands over (sd_listen_fds(3)): they outlive the proxy.
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use rustix::process::Signal;

use crate::restart::{Load, Told, echo};
use crate::support::net::eventually;
use crate::support::{ACTIVATED, Client, DEADLINE, Origin, Proxy, Vacant, get, run_by};

const CONNECTIONS_MAX: usize = 10_000;

#[test]
fn a_listener_that_is_handed_over_loses_no_request_when_one_proxy_ends_and_then_another_begins() {
    const RESTARTS: usize = 3;
    const REQUESTS: usize = 1_000;
    let origin = Origin::serves(CONNECTIONS_MAX, echo);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let told = Told::default();
    thread::scope(|scope| {
        let load = Load::begin(scope, addr, &told);
        for restart in 1..=RESTARTS {
            let mut proxy = Proxy::start_on(&listener, &origin.url(), &[("LOG_LEVEL", "INFO")]);
            proxy.logs(&["listening on", "as handed over (LISTEN_FDS)"]);
            assert_eq!(proxy.addr, addr);
            eventually("it serves for a while", || {
                told.answered() >= restart * REQUESTS
            });
            if restart == RESTARTS {
                load.end();
                return;
            }
            proxy.signal(Signal::TERM);
            assert!(proxy.exits_within(DEADLINE).success());
        }
    });
}

#[test]
fn what_is_meant_for_another_process_is_left_alone() {
    let meant_for_init = [("LISTEN_FDS", "1"), ("LISTEN_PID", "1")];
    let proxy = Proxy::start_at(&Vacant::new().url(), &meant_for_init);
    assert!(!proxy.logs(&["listening on"]).contains("LISTEN_FDS"));
}

#[test]
fn what_cannot_be_used_stops_the_start_and_says_what_to_do() {
    let url = Vacant::new().url();
    for (handed, path, complaint) in [
        ("1", "", "LISTEN_FDS: descriptor 3 is no TCP listener"),
        ("3", "", "LISTEN_FDS is 3, but there are 2 workers"),
        ("x", "", "LISTEN_FDS=\"x\" is no number"),
        ("1", "/tmp/none", "LISTEN_FDS hands over a listener, and"),
    ] {
        let settings = [
            ("UPSTREAM_BASE_URL", &*url),
            ("LISTEN_FDS", handed),
            ("LISTEN_PORT", "0"),
            ("LISTEN_UNIX", path),
            ("WORKERS", "2"),
        ];
        let ended = run_by(&ACTIVATED, &settings);
        assert_eq!(ended.status.code(), Some(1), "{}", ended.text);
        assert!(ended.text.contains(complaint), "{}", ended.text);
    }
}

#[test]
fn systemd_hands_over_what_it_listens_on() {
    let name = "systemd-socket-activate";
    if Command::new(name).arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no {name} here");
        return;
    }
    let origin = Origin::serves(1, echo);
    let addr = Vacant::new().addr; // free from now on, as far as can be known
    let there = addr.to_string();
    let mut launcher = vec![name, "--listen", &there];
    for variable in ["UPSTREAM_BASE_URL", "WORKERS", "MONOIO_FORCE_LEGACY_DRIVER"] {
        launcher.extend(["--setenv", variable]);
    }
    thread::scope(|scope| {
        // It begins the program when somebody comes, who waits meanwhile.
        let client = scope.spawn(|| {
            let mut tcp = None;
            eventually("somebody listens", || {
                tcp = TcpStream::connect(addr).ok();
                tcp.is_some()
            });
            Client::over(tcp.unwrap()).exchange(get("/waited")).text()
        });
        let proxy = Proxy::start_by(&launcher, &origin.url(), &[]);
        assert_eq!(proxy.addr, addr);
        assert_eq!(client.join().unwrap(), "/waited");
    });
}
