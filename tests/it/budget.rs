//! With a retry budget, only so many of the recent requests are sent again, and the rest are told.
use std::thread;

use crate::support::{
    Act, Client, DEADLINE, OK, Origin, Proxy, RESCUE, Response, Seen, act, answers, closes, hangs,
    post, resets,
};

/// One core, so that all requests meet the same budget.
const ONE_CORE: (&str, &str) = ("WORKERS", "1");
const SETTING: &str = "RETRY_BUDGET_PERCENT";
const FLOOR_ALONE: (&str, &str) = (SETTING, "1");
/// Leaves nothing in the pool that the next request would be tried on.
const LAST: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
const HANDSHAKE: &str = "GET /v1/responses HTTP/1.1\r\nhost: client.example\r\n\
     connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
     sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The upstream resets this many connections.
fn resets_times(count: usize) -> Vec<Act> {
    (0..count).map(|_| resets()).collect()
}

fn exchange(proxy: &Proxy) -> Response {
    Client::connect(proxy).exchange(post("/v1/responses", b"{}"))
}

/// The request was sent once and no more, for the sake of the budget.
#[track_caller]
fn assert_denied(response: &Response, status: u16, code: &str) {
    response.assert_refusal(status, code);
    assert_eq!(response.attempts(), Some(1));
    let text = response.text();
    let told = "; sent once; not tried again: the retry budget of the last 60 s is used up (RETRY_BUDGET_PERCENT)";
    assert!(text.contains(told), "{text}");
}

#[test]
fn without_a_budget_every_request_is_sent_again() {
    let origin = Origin::plays(resets_times(20));
    let proxy = Proxy::start(&origin, &[ONE_CORE]);
    for _ in 0..10 {
        let response = exchange(&proxy);
        response.assert_refusal(502, "upstream_request_error");
        assert_eq!(response.attempts(), Some(2));
        assert!(!response.text().contains(SETTING), "{}", response.text());
    }
    assert_eq!(origin.requests().len(), 20);
}

#[test]
fn with_a_budget_the_floor_and_the_share_are_sent_again_and_the_rest_are_told() {
    let attempts = [2, 2, 2, 1, 2, 1, 1, 1, 1, 2]; // three, and one for every five
    let origin = Origin::plays(resets_times(attempts.iter().sum()));
    let proxy = Proxy::start(&origin, &[ONE_CORE, (SETTING, "20")]);
    for (number, attempts) in attempts.into_iter().enumerate() {
        let response = exchange(&proxy);
        response.assert_refusal(502, "upstream_request_error");
        let text = response.text();
        assert_eq!(response.attempts(), Some(attempts as u32), "{number}");
        // Attempts that are used up are no matter of the budget.
        assert_eq!(text.contains(SETTING), attempts == 1, "{number}: {text}");
    }
    proxy.ended(10);
    let log = proxy.log();
    let lines = |parts: &[&str]| {
        let has_all = |line: &&String| parts.iter().all(|part| line.contains(part));
        log.iter().filter(has_all).count()
    };
    let failed = "attempt failed";
    assert_eq!(lines(&[failed, "attempt=1", "again=true"]), 5);
    assert_eq!(
        lines(&[failed, "attempt=1", "again=false", "reason=", SETTING]),
        5
    );
    assert_eq!(lines(&[failed, "attempt=2", "again=false"]), 5);
    assert_eq!(lines(&[SETTING]), 5);
    assert_eq!(lines(&[" refused     502 "]), 5);
}

#[test]
fn what_was_denied_and_what_is_left_is_shown_to_the_operator() {
    let admin = ("ADMIN_PORT", "0");
    let origin = Origin::plays(resets_times(8));
    let proxy = Proxy::start(&origin, &[ONE_CORE, admin, FLOOR_ALONE]);
    for (attempts, left) in [(2, 2), (2, 1), (2, 0), (1, 0), (1, 0)] {
        assert_eq!(exchange(&proxy).attempts(), Some(attempts));
        assert_eq!(proxy.status()["replays_left"], left);
    }
    let counters = &proxy.status()["counters"];
    assert_eq!(counters["replays"], 3);
    assert_eq!(counters["replays_denied"], 2);
    assert_eq!(counters["exchanges"]["exhausted"], 3);
    assert_eq!(counters["exchanges"]["refused"], 2);
    let proxy = Proxy::start(&Origin::plays([]), &[admin]);
    assert_eq!(proxy.status()["replays_left"], serde_json::Value::Null);
}

#[test]
fn requests_that_fail_at_the_same_time_have_one_budget() {
    let come = Seen::new();
    let outage = |_| {
        let come = come.clone();
        act(move |peer| {
            peer.request();
            come.push(());
            let all = come.wait(DEADLINE, |come| (come.len() == 8).then_some(()));
            all.unwrap();
            peer.reset();
        })
    };
    let rescues = (0..5).map(|_| answers(OK)); // three, and a quarter of eight
    let origin = Origin::plays((0..8).map(outage).chain(rescues));
    let proxy = Proxy::start(&origin, &[ONE_CORE, (SETTING, "25")]);
    let exchange = || exchange(&proxy);
    let responses: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(exchange)).collect();
        clients.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let (rescued, denied): (Vec<_>, Vec<_>) = responses.iter().partition(|it| it.status() == 200);
    assert_eq!((rescued.len(), denied.len()), (5, 3));
    assert!(rescued.iter().all(|it| it.attempts() == Some(2)));
    for response in denied {
        assert_denied(response, 502, "upstream_request_error");
    }
}

#[test]
fn requests_left_unanswered_are_rescued_as_long_as_there_is_a_budget() {
    let rescued = (0..3).flat_map(|_| [hangs(), answers(LAST)]);
    let origin = Origin::plays(rescued.chain([hangs()]));
    let settings = [RESCUE[0], RESCUE[1], ONE_CORE, FLOOR_ALONE];
    let proxy = Proxy::start(&origin, &settings);
    for _ in 0..3 {
        let response = exchange(&proxy);
        assert_eq!((response.status(), response.attempts()), (200, Some(2)));
    }
    assert_denied(&exchange(&proxy), 504, "upstream_header_timeout");
}

#[test]
fn a_handshake_has_no_budget_of_its_own_and_is_refused_with_426() {
    let origin = Origin::plays(resets_times(7));
    let proxy = Proxy::start(&origin, &[ONE_CORE, FLOOR_ALONE]);
    for _ in 0..3 {
        assert_eq!(exchange(&proxy).attempts(), Some(2));
    }
    let response = Client::connect(&proxy).exchange(HANDSHAKE);
    assert_denied(&response, 426, "upstream_request_error");
}

#[test]
fn an_answered_request_pays_for_the_replays_of_others() {
    let acts = resets_times(7).into_iter();
    let acts = acts.chain([answers(LAST)]).chain(resets_times(3));
    let origin = Origin::plays(acts);
    let proxy = Proxy::start(&origin, &[ONE_CORE, (SETTING, "20")]);
    let attempts = [2, 2, 2, 1, 1, 2, 1].map(|expected| {
        let response = exchange(&proxy);
        assert_eq!(response.attempts(), Some(expected), "{}", response.text());
        response.status()
    });
    assert_eq!(attempts, [502, 502, 502, 502, 200, 502, 502]);
}

#[test]
fn every_attempt_after_the_first_is_a_replay() {
    let origin = Origin::plays(resets_times(4));
    let settings = [ONE_CORE, FLOOR_ALONE, ("UPSTREAM_MAX_ATTEMPTS", "9")];
    let proxy = Proxy::start(&origin, &settings);
    let response = exchange(&proxy);
    response.assert_refusal(502, "upstream_request_error");
    assert_eq!(response.attempts(), Some(4));
    let text = response.text();
    assert!(text.contains("sent 4 times; not tried again: "), "{text}");
}

#[test]
fn a_replay_is_denied_before_the_back_off() {
    let origin = Origin::plays(resets_times(4));
    // Longer than a client here waits for anything.
    let settings = [ONE_CORE, FLOOR_ALONE, ("RETRY_BACKOFF_SECONDS", "3600")];
    let proxy = Proxy::start(&origin, &settings);
    let mut waiting = Vec::new();
    for number in 1..=3 {
        let mut client = Client::connect(&proxy);
        client.send(post("/v1/responses", b"{}"));
        proxy.logs_times(number, &["attempt failed", "again=true"]);
        waiting.push(client);
    }
    assert_denied(&exchange(&proxy), 502, "upstream_request_error");
}

#[test]
fn a_reused_connection_found_closed_costs_nothing_and_needs_no_budget() {
    let stale = || {
        act(|peer| {
            peer.request();
            peer.send(OK);
            peer.request();
            peer.close();
        })
    };
    let mut acts: Vec<_> = (0..5).map(|_| stale()).chain([answers(LAST)]).collect();
    acts.extend((0..7).map(|_| closes()));
    acts.extend([stale(), answers(LAST)]);
    let origin = Origin::plays(acts);
    let proxy = Proxy::start(&origin, &[ONE_CORE, FLOOR_ALONE]);
    let mut ended = 0;
    let mut exchange = || {
        let response = exchange(&proxy);
        ended += 1;
        proxy.ended(ended); // the connection is back in the pool
        response
    };
    for _ in 0..6 {
        assert_eq!(exchange().status(), 200);
    }
    for _ in 0..3 {
        assert_eq!(exchange().attempts(), Some(2));
    }
    assert_denied(&exchange(), 502, "upstream_request_error");
    for _ in 0..2 {
        assert_eq!(exchange().status(), 200);
    }
}
