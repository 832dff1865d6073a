//! Through proxies that others have written: dante and tinyproxy, where they are installed.
use crate::support::{
    Authority, Client, OK, Origin, Peer, Proxy, RESCUE, Server, Vacant, closes, get, hangs,
    pattern, post,
};

const ALONE: (&str, &str) = ("WORKERS", "1");

/// SOCKS 5 by dante, which lets through what `rules` say, by a login or by `none`.
fn start_dante(method: &str, rules: &str) -> Option<Server> {
    let me = rustix::process::getuid().as_raw();
    // Only root can become somebody else.
    let user = if me == 0 {
        "user.unprivileged: nobody\n"
    } else {
        ""
    };
    Server::start("danted", |port, folder| {
        let text = format!(
            "logoutput: stderr\ninternal: 127.0.0.1 port = {port}\nexternal: lo\n{user}\
             clientmethod: none\nsocksmethod: {method}\nclient pass {{ from: 0/0 to: 0/0 }}\n{rules}"
        );
        folder.write("conf", text);
        ["-f", "conf", "-p", "pid"].map(str::to_owned).into()
    })
}

/// CONNECT by tinyproxy, which lets `user` through to the ports that `rules` say.
fn start_tinyproxy(rules: &str) -> Option<Server> {
    Server::start("tinyproxy", |port, folder| {
        let text =
            format!("Port {port}\nListen 127.0.0.1\nTimeout 60\nBasicAuth user p4.ss\n{rules}");
        folder.write("conf", text);
        ["-d", "-c", "conf"].map(str::to_owned).into()
    })
}

const PASS: &str = "socks pass { from: 0/0 to: 0/0 }\n";

#[track_caller]
fn start(base_url: &str, outbound: &str, settings: &[(&str, &str)]) -> Proxy {
    let settings = [&[ALONE, ("OUTBOUND_PROXY", outbound)], settings].concat();
    Proxy::start_at(base_url, &settings)
}

fn answers_always(peer: &mut Peer) {
    while peer.next_request().is_some() {
        peer.send(OK);
    }
}

/// Whatever a request needs goes through `outbound`: both ways much, kept connections, a second attempt.
#[track_caller]
fn assert_passes(outbound: &str, host: &str) {
    let origin = Origin::serves(1, answers_always);
    let port = origin.addr.port();
    let proxy = start(&format!("http://{host}:{port}"), outbound, &[]);
    let body = pattern().at(0, 1 << 20);
    for number in 1..=3 {
        let response = Client::connect(&proxy).exchange(post("/", body));
        assert_eq!((response.status(), response.attempts()), (200, Some(1)));
        assert_eq!(origin.request(number).body, body);
        proxy.ended(number);
    }
    drop(proxy);

    let fine = |peer: &mut Peer| {
        peer.request();
        peer.send(OK);
    };
    for fault in [hangs(), closes()] {
        let authority = Authority::new();
        let origin = Origin::plays_tls(&authority, [fault, Box::new(fine)]);
        let url = format!("https://{host}:{}", origin.addr.port());
        let settings = [&[("UPSTREAM_CA_FILE", authority.file())], &RESCUE[..]].concat();
        let proxy = start(&url, outbound, &settings);
        let response = Client::connect(&proxy).exchange(post("/", b"{}"));
        let told = response.text();
        assert_eq!(
            (response.status(), response.attempts()),
            (200, Some(2)),
            "{told}"
        );
    }
}

/// A request to this port fails with these words, and is tried again or not.
#[track_caller]
fn assert_fails(outbound: &str, port: u16, words: &str, again: bool) {
    let proxy = start(&format!("http://127.0.0.1:{port}"), outbound, &[]);
    let refusal = Client::connect(&proxy).exchange(get("/"));
    refusal.assert_refusal(502, "upstream_request_error");
    assert!(refusal.text().contains(words), "{}", refusal.text());
    let failed = "attempt=1 phase=proxy failure=proxy_refused delivery=not_sent";
    proxy.logs(&[failed, &format!("again={again}")]);
}

#[test]
fn everything_goes_through_dante() {
    let Some(dante) = start_dante("none", PASS) else {
        return;
    };
    assert_passes(&format!("socks5://{}", dante.addr), "localhost");
    assert_passes(&format!("socks5h://{}", dante.addr), "localhost");
    assert_passes(&format!("socks5h://u:p@{}", dante.addr), "127.0.0.1");
}

#[test]
fn dantes_refusals_are_understood() {
    let vacant = Vacant::new();
    let port = vacant.addr.port();
    let Some(dante) = start_dante("none", PASS) else {
        return;
    };
    let refused = "the upstream refused the connection (SOCKS code 5)";
    assert_fails(&format!("socks5://{}", dante.addr), port, refused, true);

    let block = "socks block { from: 0/0 to: 127.0.0.0/8 }\n";
    let Some(dante) = start_dante("none", block) else {
        return;
    };
    let rules = "not allowed by its rules (SOCKS code 2)";
    assert_fails(&format!("socks5://{}", dante.addr), port, rules, false);

    let Some(dante) = start_dante("username", PASS) else {
        return;
    };
    let wanted = "wants a user and a password";
    assert_fails(&format!("socks5://{}", dante.addr), port, wanted, false);
    let wrong = "does not accept the user and password";
    let stranger = format!("socks5h://no-such-user:x@{}", dante.addr);
    assert_fails(&stranger, port, wrong, false);
}

#[test]
fn everything_goes_through_tinyproxy() {
    // Any port: it is the upstream's that is asked for, and that is chosen later.
    let Some(tinyproxy) = start_tinyproxy("") else {
        return;
    };
    let url = format!("http://user:p4%2ess@{}", tinyproxy.addr);
    assert_passes(&url, "localhost");
    assert_passes(&url, "127.0.0.1");
}

#[test]
fn tinyproxys_refusals_are_understood() {
    let vacant = Vacant::new();
    let port = vacant.addr.port();
    let Some(tinyproxy) = start_tinyproxy(&format!("ConnectPort {port}\n")) else {
        return;
    };
    let at = |login: &str| format!("http://{login}{}", tinyproxy.addr);
    assert_fails(&at(""), port, "wants a user and a password", false);
    let wrong = "does not accept the user and password";
    assert_fails(&at("user:x@"), port, wrong, false);
    let known = at("user:p4%2ess@");
    let other = Vacant::new();
    assert_fails(&known, other.addr.port(), "refused CONNECT with 403", false);
    assert_fails(&known, port, "refused CONNECT with 50", true);
}
