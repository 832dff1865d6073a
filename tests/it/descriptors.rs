//! No descriptors left: whoever needs one is told so or waits; what runs goes on, and so does what
//! comes later.
use rustix::process::Signal;

use crate::support::load::{self, Came};
use crate::support::net::eventually;
use crate::support::{Authority, Client, DEADLINE, OK, Origin, Proxy, get, look_at};

/// The hard limit as well: the proxy raises the soft one to it.
const WITH_64: [&str; 3] = ["sh", "-c", "ulimit -n 64 && exec \"$0\""];
const LIMIT: usize = 64;

fn use_up(proxy: &Proxy) -> Vec<Client> {
    let crowd = (0..LIMIT * 2).map(|_| Client::connect(proxy)).collect();
    // It may have been given one more, beyond the limit, so counting them is not enough.
    proxy.logs(&["cannot accept for now: Too many open files"]);
    crowd
}

#[test]
fn a_flood_is_survived_with_64_descriptors() {
    const CLIENTS: usize = 100;
    const REQUESTS: usize = 6;
    let authority = Authority::new();
    for tls in [false, true] {
        let max = CLIENTS * REQUESTS * 2;
        let origin = match tls {
            true => Origin::serves_tls(&authority, max, load::answer),
            false => Origin::serves(max, load::answer),
        };
        let settings = [("UPSTREAM_CA_FILE", authority.file())];
        let mut proxy = Proxy::start_by(&WITH_64, &origin.url(), &settings);
        let before = proxy.descriptors();
        let came = load::storm(&proxy, CLIENTS, REQUESTS);
        let known = |came: &Came| matches!(came, Came::Whole | Came::Refusal(502));
        assert!(came.iter().all(known), "{came:?}");
        eventually("all clients are closed", || proxy.clients() == 0);
        let later = load::storm(&proxy, 4, 4);
        assert!(later.iter().all(|came| *came == Came::Whole), "{later:?}");
        eventually("descriptors return", || {
            proxy.descriptors() <= before + proxy.sockets_to(origin.addr) + 16
        });
        proxy.signal(Signal::TERM);
        assert!(proxy.exits_within(DEADLINE).success());
    }
}

#[test]
fn a_request_for_which_there_is_no_descriptor_is_told_so_and_the_next_one_is_served() {
    let authority = Authority::new();
    for tls in [false, true] {
        let answers = |peer: &mut crate::support::Peer| {
            while peer.next_request().is_some() {
                peer.send(OK);
            }
        };
        let origin = match tls {
            true => Origin::serves_tls(&authority, 1, answers),
            false => Origin::serves(1, answers),
        };
        let settings = [("WORKERS", "1"), ("UPSTREAM_CA_FILE", authority.file())];
        let proxy = Proxy::start_by(&WITH_64, &origin.url(), &settings);
        let mut client = Client::connect(&proxy);
        assert_eq!(client.exchange(get("/healthz")).status(), 200);
        let mut crowd = use_up(&proxy);
        let refusal = client.exchange(get("/"));
        refusal.assert_refusal(502, "upstream_request_error");
        let text = refusal.text();
        assert!(text.contains("Too many open files"), "{text}");
        assert!(text.contains("nothing was sent"), "{text}");
        assert_eq!(refusal.attempts(), None);
        crowd.iter_mut().for_each(|client| _ = client.leave());
        eventually("they are gone", || proxy.clients() == 1);
        assert_eq!(client.exchange(get("/")).text(), "ok");
    }
}

#[test]
fn operators_on_a_kept_connection_have_the_last_numbers_where_there_is_no_descriptor_to_ask_with() {
    let origin = Origin::serves(1, |peer| {
        peer.request();
        peer.send(OK);
    });
    let settings = [("WORKERS", "1"), ("ADMIN_PORT", "0")];
    let proxy = Proxy::start_by(&WITH_64, &origin.url(), &settings);
    assert_eq!(Client::connect(&proxy).exchange(get("/")).status(), 200);
    proxy.ended(1);
    let mut operator = Client::connect_to(proxy.admin());
    let mut status = || {
        let answer = operator.exchange(look_at("/status.json"));
        assert_eq!(answer.status(), 200, "{}", answer.text());
        serde_json::from_str::<serde_json::Value>(&answer.text()).unwrap()
    };
    assert_eq!(status()["silent_workers"], 0);
    let crowd = use_up(&proxy);
    let blind = status();
    assert_eq!(blind["silent_workers"], 1);
    assert_eq!(blind["counters"]["exchanges"]["answered"], 1);
    drop(crowd);
    eventually("it can be asked again", || status()["silent_workers"] == 0);
}

#[test]
fn a_proxy_without_descriptors_drains() {
    let origin = Origin::serves(0, |_| ());
    let mut proxy = Proxy::start_by(&WITH_64, &origin.url(), &[]);
    let mut crowd = use_up(&proxy);
    proxy.signal(Signal::TERM);
    assert!(proxy.exits_within(DEADLINE).success(), "{}", proxy.text());
    crowd.iter_mut().for_each(Client::is_closed);
}
