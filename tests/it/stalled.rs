//! A core that sleeps through a deadline finds what came meanwhile: time alone says nothing of what
//! lies in a socket.
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use crate::support::{
    Act, Authority, Client, OK, Origin, Peer, Proxy, act, answers, get, post, soon,
};

const ALONE: (&str, &str) = ("WORKERS", "1");
/// The deadline slept through, as settings give it, and the sleep.
const LIMIT: &str = "2";
const SLEEP: Duration = Duration::from_millis(2500);

/// Two points of an act that the test waits for, and the word to go on in between.
struct Meeting {
    reached: Receiver<()>,
    go_on: Sender<()>,
}

impl Meeting {
    /// What the upstream does before the sleep, and in it.
    fn act(
        before: impl FnOnce(&mut Peer) + Send + 'static,
        asleep: impl FnOnce(&mut Peer) + Send + 'static,
    ) -> (Self, Act) {
        let (reach, reached) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        let played = act(move |peer| {
            before(peer);
            reach.send(()).unwrap();
            soon(&may_go_on);
            asleep(peer);
            reach.send(()).unwrap();
        });
        (Self { reached, go_on }, played)
    }

    /// The proxy sleeps while the upstream and the client do their parts.
    fn sleeps(&self, proxy: &Proxy, client: impl FnOnce()) {
        soon(&self.reached);
        proxy.sleeps(SLEEP, || {
            self.go_on.send(()).unwrap();
            soon(&self.reached);
            client();
        });
    }
}

fn assert_answered_once(client: &mut Client, origin: &Origin) {
    let response = client.response();
    assert_eq!(response.text(), "ok", "{}", response.head.text());
    assert_eq!(response.attempts(), Some(1));
    assert_eq!(origin.requests().len(), 1);
}

/// They sleep at the same time.
fn at_once<T: Sync>(cases: &[T], play: impl Fn(&T) + Sync) {
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| play(case));
        }
    });
}

fn asks(peer: &mut Peer) {
    peer.request();
}

#[test]
fn a_response_that_came_in_the_sleep_is_relayed() {
    let (meeting, played) = Meeting::act(asks, |peer| peer.send(OK));
    let origin = Origin::plays([played]);
    let proxy = Proxy::start(
        &origin,
        &[ALONE, ("RESPONSE_HEADER_TIMEOUT_SECONDS", LIMIT)],
    );
    let mut client = Client::connect(&proxy);
    client.send(get("/"));
    meeting.sleeps(&proxy, || ());
    assert_answered_once(&mut client, &origin);
}

#[test]
fn a_response_that_came_in_the_sleep_is_relayed_over_tls() {
    let (meeting, played) = Meeting::act(asks, |peer| peer.send(OK));
    let authority = Authority::new();
    let origin = Origin::plays_tls(&authority, [played]);
    let settings = [
        ALONE,
        ("UPSTREAM_CA_FILE", authority.file()),
        ("RESPONSE_HEADER_TIMEOUT_SECONDS", LIMIT),
    ];
    let proxy = Proxy::start(&origin, &settings);
    let mut client = Client::connect(&proxy);
    client.send(post("/", b"{}"));
    meeting.sleeps(&proxy, || ());
    assert_answered_once(&mut client, &origin);
}

#[test]
fn a_part_of_a_record_that_came_in_the_sleep_is_no_response_byte() {
    let (meeting, played) = Meeting::act(asks, |peer| {
        let sealed = peer.seal(OK.as_bytes());
        peer.send_sealed(&sealed[..sealed.len() - 1]);
    });
    let authority = Authority::new();
    let origin = Origin::plays_tls(&authority, [played, answers(OK)]);
    let settings = [
        ALONE,
        ("UPSTREAM_CA_FILE", authority.file()),
        ("RESPONSE_HEADER_TIMEOUT_SECONDS", LIMIT),
        ("LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS", "30"),
    ];
    let proxy = Proxy::start(&origin, &settings);
    let mut client = Client::connect(&proxy);
    client.send(get("/"));
    meeting.sleeps(&proxy, || ());
    assert_eq!(client.response().attempts(), Some(2));
}

#[test]
fn a_head_whose_end_came_in_the_sleep_is_relayed() {
    let (begin, end) = OK.split_at(OK.len() / 2);
    let (meeting, played) = Meeting::act(
        move |peer| {
            peer.request();
            peer.send(begin);
            peer.until_taken();
        },
        move |peer| peer.send(end),
    );
    let origin = Origin::plays([played]);
    let proxy = Proxy::start(
        &origin,
        &[ALONE, ("RESPONSE_HEADER_TIMEOUT_SECONDS", LIMIT)],
    );
    let mut client = Client::connect(&proxy);
    client.send(get("/"));
    meeting.sleeps(&proxy, || ());
    assert_answered_once(&mut client, &origin);
}

#[test]
fn a_handshake_that_came_in_the_sleep_leads_to_one_request() {
    let (reach, reached) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = std::sync::Mutex::new(may_go_on);
    let authority = Authority::new();
    // Whether the first connection is used or another is made is free: its request is not.
    let origin = Origin::serves_tls(&authority, 2, move |peer| {
        if peer.number == 0 {
            let flight = peer.flight();
            reach.send(()).unwrap();
            soon(&may_go_on.lock().unwrap());
            peer.send_sealed(&flight);
            reach.send(()).unwrap();
        }
        if peer.next_whole_request().is_some() {
            peer.send(OK);
        }
    });
    let settings = [
        ALONE,
        ("UPSTREAM_CA_FILE", authority.file()),
        ("CONNECT_TIMEOUT_SECONDS", LIMIT),
    ];
    let proxy = Proxy::start(&origin, &settings);
    let mut client = Client::connect(&proxy);
    client.send(post("/", b"{}"));
    soon(&reached);
    proxy.sleeps(SLEEP, || {
        go_on.send(()).unwrap();
        soon(&reached);
    });
    assert_answered_once(&mut client, &origin);
}

#[test]
fn an_answer_that_came_in_the_sleep_while_sending_is_relayed() {
    at_once(&[false, true], |tls| {
        let early = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nok";
        let (meeting, played) = Meeting::act(
            |peer| {
                peer.head();
            },
            move |peer| peer.send(early),
        );
        let played = act(|peer| {
            played(peer);
            peer.is_deaf();
        });
        let authority = Authority::new();
        let origin = match *tls {
            true => Origin::plays_tls(&authority, [played]),
            false => Origin::plays([played]),
        };
        let settings = [
            ALONE,
            ("UPSTREAM_CA_FILE", authority.file()),
            ("WRITE_TIMEOUT_SECONDS", LIMIT),
        ];
        let proxy = Proxy::start(&origin, &settings);
        let mut client = Client::connect(&proxy);
        client.send(post("/", &vec![b'x'; 20 << 20]));
        meeting.sleeps(&proxy, || ());
        let response = client.response();
        assert_eq!(
            (response.status(), response.attempts()),
            (413, Some(1)),
            "{tls}"
        );
    });
}

#[test]
fn a_client_that_left_in_the_sleep_is_not_asked_for_again() {
    let cases = [
        ("RESPONSE_HEADER_TIMEOUT_SECONDS", 2, false),
        ("RESPONSE_HEADER_TIMEOUT_SECONDS", 2, true),
        ("WRITE_TIMEOUT_SECONDS", 20 << 20, false),
        ("WRITE_TIMEOUT_SECONDS", 20 << 20, true),
    ];
    at_once(&cases, |(limit, body, resets)| {
        let (meeting, played) = Meeting::act(|peer| drop(peer.head()), |_| ());
        let played = act(|peer| {
            played(peer);
            peer.is_closed_after();
        });
        let origin = Origin::plays([played]);
        let settings = [ALONE, (limit, LIMIT), ("RETRY_BACKOFF_SECONDS", "0")];
        let proxy = Proxy::start(&origin, &settings);
        let mut client = Client::connect(&proxy);
        client.send(post("/", &vec![b'x'; *body]));
        meeting.sleeps(&proxy, || {
            let _ = match resets {
                true => client.reset(),
                false => client.leave(),
            };
        });
        proxy.logs(&["client left"]);
    });
}

#[test]
fn events_that_came_in_the_sleep_are_relayed() {
    let (meeting, played) = Meeting::act(
        |peer| {
            peer.request();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\non");
            peer.until_taken();
        },
        |peer| peer.send("ly"),
    );
    let origin = Origin::plays([played]);
    let proxy = Proxy::start(&origin, &[ALONE, ("STREAM_IDLE_TIMEOUT_SECONDS", LIMIT)]);
    let mut client = Client::connect(&proxy);
    client.send(get("/"));
    meeting.sleeps(&proxy, || ());
    assert_eq!(client.response().text(), "only");
}

#[test]
fn a_request_whose_rest_came_in_the_sleep_is_served() {
    let settings = [
        ALONE,
        ("CLIENT_HEADER_TIMEOUT_SECONDS", LIMIT),
        ("CLIENT_BODY_TIMEOUT_SECONDS", LIMIT),
    ];
    let whole = post("/", b"{\"a\":1}");
    at_once(&[20, whole.len() - 3], |split| {
        let (begin, end) = whole.split_at(*split);
        let origin = Origin::plays([answers(OK)]);
        let proxy = Proxy::start(&origin, &settings);
        let mut client = Client::connect(&proxy);
        client.send(begin);
        client.until_taken();
        proxy.sleeps(SLEEP, || client.send(end));
        assert_answered_once(&mut client, &origin);
    });
}
