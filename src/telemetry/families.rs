//! What each number means: its name, its labels, and a sentence of help.
use crate::telemetry::counters::{
    ATTEMPTS, CODES, Count, Counters, Family, Histogram, Labels, Series,
};
use crate::telemetry::words::{Cause, Delivery, Ending, Phase};

impl Counters {
    /// All numbers, in the order in which people should meet them.
    pub fn families(&self) -> Vec<Family<'_>> {
        let mut families = self.of_exchanges();
        families.extend(self.of_attempts());
        families.extend(self.of_connections());
        families.extend(self.times());
        families
    }

    fn of_exchanges(&self) -> Vec<Family<'_>> {
        vec![
            family(
                "exchanges",
                "Requests that have ended, by outcome: answered (by the first attempt), rescued (answered \
                 although an attempt had failed), exhausted (the last attempt failed), refused (for another \
                 reason), client_left, tunnelled (a WebSocket that has ended), aborted (the response was \
                 broken off).",
                labelled("outcome", &Ending::NAMES, &self.exchanges),
            ),
            family(
                "refusals",
                "Responses by the proxy itself, by the code that the client was told.",
                labelled("code", &CODES, &self.refusals),
            ),
            family(
                "clients_left",
                "Clients that left before their response was complete, by what their request was at.",
                labelled("phase", &Phase::NAMES, &self.clients_left),
            ),
            family(
                "possibly_doubled_requests",
                "Requests sent again after an attempt whose request had been taken whole by the peer's \
                 kernel: they may have been processed, and billed, twice.",
                one(&self.possibly_doubled),
            ),
            family(
                "early_answers",
                "Responses that began before the request was sent whole.",
                one(&self.early_answers),
            ),
            family(
                "tunnels",
                "WebSocket handshakes that were accepted by the upstream.",
                one(&self.tunnels),
            ),
            family(
                "request_bytes",
                "Bytes of requests, heads included, each counted once however often it is sent, and those \
                 that tunnels have moved up.",
                one(&self.request_bytes),
            ),
            family(
                "response_bytes",
                "Bytes written to clients, heads included, and those that tunnels have moved down.",
                one(&self.response_bytes),
            ),
            family(
                "spliced_bytes",
                "Those of the bytes written to clients that went from socket to socket inside the kernel.",
                one(&self.spliced_bytes),
            ),
        ]
    }

    fn of_attempts(&self) -> Vec<Family<'_>> {
        vec![
            family("attempts", "Attempts that have begun.", one(&self.attempts)),
            family(
                "attempt_failures",
                "Attempts that failed before a response byte, by phase, by failure, and by how far the request \
                 came: not_sent (nothing of it), not_acked (the peer's kernel has not taken all of it), acked \
                 (it has: the request may have been processed; behind a CDN it is the edge that has it).",
                Series::Counts(self.failures()),
            ),
            family(
                "replays",
                "Attempts after the first of their request.",
                one(&self.replays),
            ),
            family(
                "replays_denied",
                "Attempts that RETRY_BUDGET_PERCENT did not allow.",
                one(&self.replays_denied),
            ),
        ]
    }

    fn of_connections(&self) -> Vec<Family<'_>> {
        vec![
            family(
                "pool_takes",
                "Looks for an idle upstream connection: hit, miss (there was none). Besides those, stale: idle \
                 connections that turned out to have been closed by the upstream.",
                Series::Counts(vec![
                    (vec![("result", "hit")], &self.pool_hits),
                    (vec![("result", "miss")], &self.pool_misses),
                    (vec![("result", "stale")], &self.pool_stale),
                ]),
            ),
            family(
                "connects",
                "TCP connects to the upstream, by their result; failed includes those that took too long.",
                Series::Counts(vec![
                    (vec![("result", "ok")], &self.connects),
                    (vec![("result", "failed")], &self.connects_failed),
                ]),
            ),
            family(
                "tls_handshakes",
                "TLS handshakes with the upstream: full, resumed from an earlier session, or failed, which \
                 includes those that took too long.",
                Series::Counts(vec![
                    (vec![("result", "full")], &self.handshakes_full),
                    (vec![("result", "resumed")], &self.handshakes_resumed),
                    (vec![("result", "failed")], &self.handshakes_failed),
                ]),
            ),
            family(
                "client_accepts",
                "Connections of clients, by what came of them: admitted, turned_away (beyond \
                 MAX_CLIENT_CONNECTIONS, told so), closed (beyond that, without a word).",
                Series::Counts(vec![
                    (vec![("result", "admitted")], &self.clients_admitted),
                    (vec![("result", "turned_away")], &self.clients_turned_away),
                    (vec![("result", "closed")], &self.clients_closed),
                ]),
            ),
            family(
                "panics",
                "Connections that ended by a defect of the proxy.",
                one(&self.panics),
            ),
        ]
    }

    fn times(&self) -> Vec<Family<'_>> {
        let by_attempt = ATTEMPTS.iter().zip(&self.header_time);
        vec![
            times(
                "response_header_wait_seconds",
                "From the last byte of a request sent to the end of its response head, by the number of the \
                 attempt: what RESPONSE_HEADER_TIMEOUT_SECONDS limits.",
                by_attempt
                    .map(|(attempt, times)| (vec![("attempt", *attempt)], times))
                    .collect(),
            ),
            times(
                "exchange_duration_seconds",
                "From the end of a request's head to the end of its exchange, tunnels included.",
                vec![(vec![], &self.exchange_time)],
            ),
            times(
                "connect_duration_seconds",
                "TCP connects to the upstream that succeeded.",
                vec![(vec![], &self.connect_time)],
            ),
            times(
                "tls_handshake_duration_seconds",
                "TLS handshakes with the upstream that succeeded.",
                vec![(vec![], &self.handshake_time)],
            ),
            times(
                "send_duration_seconds",
                "Sending a whole request to the upstream.",
                vec![(vec![], &self.send_time)],
            ),
        ]
    }

    /// Before the request is sent there is one delivery only.
    fn failures(&self) -> Vec<(Labels, &Count)> {
        let mut series = Vec::new();
        for (cause, counts) in Cause::ALL.into_iter().zip(&self.failures) {
            let sends = matches!(cause.phase(), Phase::Send | Phase::Header);
            for (delivery, count) in Delivery::NAMES.into_iter().zip(counts) {
                if sends || delivery == Delivery::NotSent.name() {
                    let labels = vec![
                        ("phase", cause.phase().name()),
                        ("failure", cause.name()),
                        ("delivery", delivery),
                    ];
                    series.push((labels, count));
                }
            }
        }
        series
    }
}

fn family<'c>(name: &'static str, help: &'static str, series: Series<'c>) -> Family<'c> {
    Family { name, help, series }
}

fn times<'c>(
    name: &'static str,
    help: &'static str,
    series: Vec<(Labels, &'c Histogram)>,
) -> Family<'c> {
    family(name, help, Series::Histograms(series))
}

fn one(count: &Count) -> Series<'_> {
    Series::Counts(vec![(vec![], count)])
}

fn labelled<'c>(
    label: &'static str,
    values: &'static [&'static str],
    counts: &'c [Count],
) -> Series<'c> {
    let pairs = values.iter().zip(counts);
    Series::Counts(
        pairs
            .map(|(value, count)| (vec![(label, *value)], count))
            .collect(),
    )
}
