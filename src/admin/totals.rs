//! The parts of the page that count since the start.
use std::time::Duration;

use maud::{Markup, html};

use crate::admin::units::{bar, bytes, duration, number, share};
use crate::telemetry::counters::{BOUNDS, CODES, Count, Counters};
use crate::telemetry::whole::Whole;
use crate::telemetry::words::{Cause, Delivery, Ending, Phase};

/// No response head comes from another machine in less: what took less is shown as one.
const FAST: u64 = 10_000_000;

/// How requests ended, and how long responses took to begin.
pub(super) fn html(counters: &Counters, header_timeout: Duration) -> Markup {
    html! {
        div .two {
            section aria-labelledby="outcomes" {
                h2 #outcomes { "Outcomes" }
                (outcomes(&counters.exchanges))
                details {
                    summary { "Refused, by code" }
                    (named("refusals", &CODES, &counters.refusals))
                }
                details {
                    summary { "Clients that left, by phase" }
                    (named("left", &Phase::NAMES, &counters.clients_left))
                }
                details {
                    summary { "Failed attempts, by failure and delivery" }
                    (failed_attempts(counters))
                }
            }
            section aria-labelledby="headers" {
                h2 #headers { "Time to headers" }
                (header_times(counters, header_timeout))
            }
        }
    }
}

fn outcomes(exchanges: &[Count; Ending::NAMES.len()]) -> Markup {
    let all = exchanges.iter().map(Count::value).sum();
    let rows = Ending::NAMES.into_iter().zip(exchanges);
    let meanings = [
        "by the first attempt",
        "although an attempt had failed",
        "the last attempt failed as well",
        "by the proxy, for another reason",
        "before its response was complete",
        "a WebSocket that has ended",
        "the response broke off",
    ];
    html! {
        table .bars {
            thead {
                tr {
                    th scope="col" { "Outcome" }
                    th scope="col" .number { "Requests" }
                    th scope="col" { "Share" }
                }
            }
            tbody {
                @for ((name, count), meaning) in rows.zip(meanings) {
                    tr .none[count.value() == 0] {
                        th scope="row" {
                            (name.replace('_', " "))
                            div .small { (meaning) }
                        }
                        td .number #{ "exchanges-" (name) } { (number(count.value())) }
                        td .bar-cell {
                            (bar(name, count.value(), all))
                            span .small { (share(count.value(), all)) }
                        }
                    }
                }
            }
        }
    }
}

fn named(id: &str, names: &[&str], counts: &[Count]) -> Markup {
    html! {
        table {
            tbody {
                @for (name, count) in names.iter().zip(counts) {
                    tr .none[count.value() == 0] {
                        th scope="row" { (name) }
                        td .number #{ (id) "-" (name) } { (number(count.value())) }
                    }
                }
            }
        }
    }
}

fn failed_attempts(counters: &Counters) -> Markup {
    html! {
        table .causes {
            thead {
                tr {
                    th scope="col" { "Failure" }
                    @for delivery in Delivery::NAMES { th scope="col" .number { (delivery) } }
                }
            }
            tbody {
                @for (cause, counts) in Cause::NAMES.into_iter().zip(&counters.failures) {
                    tr .none[counts.iter().all(|count| count.value() == 0)] {
                        th scope="row" { (cause) }
                        @for (delivery, count) in Delivery::NAMES.into_iter().zip(counts) {
                            td .number #{ "failed-" (cause) "-" (delivery) } { (number(count.value())) }
                        }
                    }
                }
            }
        }
    }
}

/// A bucket as it is shown: its upper bound in nanoseconds, and what is in it of first attempts and of
/// later ones.
struct Waited {
    bound: Option<u64>,
    first: u64,
    later: u64,
}

fn waited(counters: &Counters) -> Vec<Waited> {
    let [first, later @ ..] = counters.header_time.each_ref().map(|times| times.buckets());
    let bounds = BOUNDS.into_iter().map(Some).chain([None]);
    let mut shown: Vec<Waited> = Vec::new();
    for (at, bound) in bounds.enumerate() {
        let later = later.iter().map(|buckets| buckets[at]).sum();
        match shown.last_mut() {
            Some(last) if bound.is_some_and(|bound| bound <= FAST) => {
                last.bound = bound;
                last.first += first[at];
                last.later += later;
            }
            _ => shown.push(Waited {
                bound,
                first: first[at],
                later,
            }),
        }
    }
    shown
}

fn header_times(counters: &Counters, limit: Duration) -> Markup {
    let rows = waited(counters);
    let most = rows
        .iter()
        .map(|row| row.first + row.later)
        .max()
        .unwrap_or(0);
    let limit_nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
    let mut marked = false;
    html! {
        p #quantiles .small { (quantiles(&rows)) }
        table .bars .times {
            thead {
                tr {
                    th scope="col" { "Up to" }
                    th scope="col" .number .first { "First" }
                    th scope="col" .number .later { "Later" }
                    th scope="col" { span .unseen { "Of the most" } }
                }
            }
            tbody {
                @for row in &rows {
                    @if !marked && row.bound.is_none_or(|bound| bound > limit_nanos) {
                        ({ marked = true; mark(limit) })
                    }
                    tr .none[row.first + row.later == 0] {
                        th scope="row" {
                            @match row.bound {
                                Some(bound) => (duration(Duration::from_nanos(bound))),
                                None => "longer",
                            }
                        }
                        td .number { (number(row.first)) }
                        td .number { (number(row.later)) }
                        td .bar-cell {
                            (bar("answered", row.first, most)) (bar("rescued", row.later, most))
                        }
                    }
                }
            }
        }
    }
}

/// Where the wait of an attempt is over, save where another limit holds.
fn mark(limit: Duration) -> Markup {
    html! {
        tr .mark {
            th scope="row" colspan="4" { "RESPONSE_HEADER_TIMEOUT_SECONDS, " (duration(limit)) }
        }
    }
}

fn quantiles(rows: &[Waited]) -> Markup {
    let all: u64 = rows.iter().map(|row| row.first + row.later).sum();
    // The least bound that so many are not above.
    let within = |percent: u64| {
        let mut seen = 0;
        let row = rows.iter().find(|row| {
            seen += row.first + row.later;
            seen * 100 >= all * percent
        });
        match row.and_then(|row| row.bound) {
            Some(bound) => duration(Duration::from_nanos(bound)),
            None => "more than the longest here".to_owned(),
        }
    };
    html! {
        @if all == 0 {
            "No response has begun yet."
        } @else {
            "By first and by later attempts. Half began within " (within(50)) ", 95 % within " (within(95)) "."
        }
    }
}

/// What goes on between the proxy, the upstream and the clients.
pub(super) fn connections(whole: &Whole) -> Markup {
    let (counters, gauges) = (&whole.counters, &whole.gauges);
    let count = |id: &'static str, term: &'static str, count: &Count| {
        (id, term, html! { (number(count.value())) })
    };
    let gauge =
        |id: &'static str, term: &'static str, value: u64| (id, term, html! { (number(value)) });
    let size = |id: &'static str, term: &'static str, value: u64| (id, term, bytes(value));
    let left = match gauges.replays_left {
        Some(left) => html! { (number(left)) },
        None => html! { "no limit" },
    };
    html! {
        div .three {
            (pairs("Upstream connections", &[
                gauge("idle", "Idle now", gauges.idle_connections),
                count("pool-hits", "Taken from the pool", &counters.pool_hits),
                count("pool-misses", "Not to be had there", &counters.pool_misses),
                count("pool-stale", "Stale", &counters.pool_stale),
                count("connects", "Connects", &counters.connects),
                count("connects-failed", "Connects that failed", &counters.connects_failed),
                count("connects-abandoned", "Connects abandoned", &counters.connects_abandoned),
                count("handshakes-full", "TLS handshakes, full", &counters.handshakes_full),
                count("handshakes-resumed", "TLS handshakes, resumed", &counters.handshakes_resumed),
                count("handshakes-failed", "TLS handshakes that failed", &counters.handshakes_failed),
            ]))
            (pairs("Sending again", &[
                count("attempts", "Attempts", &counters.attempts),
                count("replays", "Those after the first", &counters.replays),
                count("replays-denied", "Denied by the budget", &counters.replays_denied),
                ("replays-left", "Budget left now", left),
                count("early-answers", "Early answers", &counters.early_answers),
                count("tunnels", "WebSockets opened", &counters.tunnels),
            ]))
            (pairs("Clients", &[
                gauge("clients", "Connected now", gauges.client_connections),
                count("admitted", "Admitted", &counters.clients_admitted),
                count("turned-away", "Turned away", &counters.clients_turned_away),
                count("closed", "Closed without a word", &counters.clients_closed),
                size("buffered", "Request bodies held now", gauges.buffered_bytes),
                size("request-bytes", "Bytes of requests", counters.request_bytes.value()),
                size("response-bytes", "Bytes of responses", counters.response_bytes.value()),
                size("spliced-bytes", "Those moved by the kernel", counters.spliced_bytes.value()),
                gauge("followed_responses", "Followed for clients that left", gauges.drains),
                count("panics", "Ended by a defect", &counters.panics),
            ]))
        }
    }
}

fn pairs(title: &str, rows: &[(&str, &str, Markup)]) -> Markup {
    html! {
        section {
            h2 { (title) }
            dl .pairs {
                @for (id, term, value) in rows {
                    div { dt { (term) } dd #(id) { (value) } }
                }
            }
        }
    }
}
