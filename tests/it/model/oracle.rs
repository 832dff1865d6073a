//! The contract as a judge: from a script and what really happened, what may have been sent, and what
//! the client may have seen. It shares no code with the proxy.
//!
//! Time is judged by what the upstream noted, not by what the script wanted: an answer counts as in
//! time where it was on the wire before the earliest moment at which the proxy may have given up.
use std::time::{Duration, Instant};

use super::client::{Seen, Visit};
use super::message::Layout;
use super::script::{
    Answer, Climate, Content, Ending, Exchange, Fault, Framing, Move, Script, Then,
};
use super::upstream::Send;
use super::verdict::Allowed;
use crate::support::fields_without;

/// STREAM_IDLE_TIMEOUT_SECONDS where upstreams are silent.
pub const IDLE_LIMIT: Duration = Duration::from_millis(1500);

/// What is wrong with what happened; the sendings of each exchange in `sends`.
pub fn judge(script: &Script, climate: Climate, sends: &[Vec<Send>], visit: &Visit) -> Vec<String> {
    let mut faults = visit.faults.clone();
    for (number, exchange) in script.exchanges.iter().enumerate() {
        let case = Case {
            exchange,
            climate,
            sends: &sends[number],
            seen: &visit.seen[number],
            left: visit.left,
            followed: script
                .exchanges
                .get(number + 1)
                .is_some_and(|next| next.pipelined),
        };
        let verdict = case.requests().and_then(|()| case.outcome());
        faults.extend(
            verdict
                .err()
                .map(|fault| format!("exchange {number}: {fault}")),
        );
    }
    faults
}

pub struct Case<'a> {
    pub exchange: &'a Exchange,
    pub climate: Climate,
    pub sends: &'a [Send],
    pub seen: &'a Seen,
    pub left: Option<Instant>,
    /// The next request was sent behind this one.
    followed: bool,
}

impl Case<'_> {
    /// Every sending is the client's request, and the same bytes each time.
    fn requests(&self) -> Result<(), String> {
        let Some(first) = self.sends.first() else {
            return Ok(());
        };
        let exchange = self.exchange;
        let head = &first.head;
        let line = format!("{} /{} HTTP/1.1", exchange.method, exchange.id);
        let length = exchange.body_bytes().to_string();
        let bodiless = matches!(exchange.body, Content::None);
        let as_sent = head.line() == line
            && fields_without(head, &["host", "content-length"]) == exchange.fields()
            && head.field("content-length") == (!bodiless).then_some(length)
            && head.all("host").len() == 1;
        if !as_sent {
            return Err(format!(
                "another request than the client's: {}",
                head.text()
            ));
        }
        for (number, send) in self.sends.iter().enumerate() {
            if send.head != *head {
                return Err(format!(
                    "sending {number} has another head: {}",
                    send.head.text()
                ));
            }
            if !send.same {
                return Err(format!("sending {number} has other bytes in its body"));
            }
        }
        Ok(())
    }

    /// Follows the sendings: each but the first needs a reason, and the last one decides.
    fn outcome(&self) -> Result<(), String> {
        let max = self.climate.attempts;
        let mut free = max > 1 || self.exchange.is_idempotent();
        // Attempts used up for certain, and those that were perhaps free.
        let (mut attempt, mut unsure) = (1, 0);
        let Some(mut earliest) = self.seen.sent else {
            return match self.sends.is_empty() {
                true => self.untouched(),
                false => Err("sent before the client had sent it".to_owned()),
            };
        };
        let mut allowed = Vec::new();
        for (number, send) in self.sends.iter().enumerate() {
            let last = number + 1 == self.sends.len();
            let failed = self.failed(number, send, earliest);
            let Some(failure) = failed else {
                // In time: nothing may come after it.
                if !last {
                    return Err(format!(
                        "sent again after the response byte of sending {number}"
                    ));
                }
                allowed = self.of_answer(number, send, earliest);
                break;
            };
            let stale = send.reused && failure.closed && free;
            if last && failure.late {
                allowed = self.of_answer(number, send, earliest);
            }
            let used_up = attempt + unsure >= max && (failure.unsure || !stale);
            if last && used_up {
                allowed.extend(failure.refusals);
            }
            if last {
                break;
            }
            if attempt == max && !stale {
                return Err(format!("sent again after attempt {max}, sending {number}"));
            }
            if self.left.is_some_and(|left| left < failure.since) {
                return Err(format!(
                    "sent again after the client had left, sending {number}"
                ));
            }
            if self.sends[number + 1].began < failure.since {
                return Err(format!("given up too early, sending {number}"));
            }
            free &= !stale;
            unsure += u32::from(stale && failure.unsure);
            attempt += u32::from(!stale);
            earliest = failure.since;
        }
        self.compare(&allowed)
    }

    /// Why this sending drew no byte that the proxy must have seen.
    fn failed(&self, number: usize, send: &Send, earliest: Instant) -> Option<Failed> {
        let expiry = earliest + self.climate.header_limit;
        let closed = |since| Failed {
            since,
            closed: true,
            late: false,
            unsure: false,
            refusals: vec![Allowed::Refusal(502, "upstream_request_error")],
        };
        let timeout = |late| {
            let mut refusals = vec![Allowed::Refusal(504, "upstream_header_timeout")];
            if send.received < self.exchange.body_bytes() {
                refusals.push(Allowed::Refusal(504, "upstream_timeout"));
            }
            Failed {
                since: expiry,
                closed: false,
                late,
                unsure: false,
                refusals,
            }
        };
        if send.was_idle {
            return Some(closed(earliest));
        }
        match &self.exchange.moves[number.min(self.exchange.moves.len() - 1)] {
            Move::Ends(..) => match send.ended {
                Some(ended) if ended < expiry => Some(closed(ended)),
                // The proxy may have given up before: either way it is a failure.
                _ => {
                    let mut failed = timeout(false);
                    (failed.closed, failed.unsure) = (true, true);
                    failed.refusals.extend(closed(earliest).refusals);
                    Some(failed)
                }
            },
            Move::Silent(_) => Some(timeout(false)),
            Move::Answers(_) => match send.answer.first {
                Some(first) if first < expiry => None,
                _ => Some(timeout(true)),
            },
        }
    }

    /// What the client may see of the answer to sending `number`.
    fn of_answer(&self, number: usize, send: &Send, earliest: Instant) -> Vec<Allowed> {
        let exchange = self.exchange;
        let Some(Move::Answers(answer)) = exchange.moves.get(number) else {
            return Vec::new();
        };
        let layout = answer.layout(exchange.method, exchange.id, number);
        let sent = answer.cut.unwrap_or(layout.wire.len());
        let interim = !self.interim(answer, &layout, sent).is_empty();
        let headless = |refusal| match interim {
            true => Allowed::Headless {
                lossy: self.followed,
            },
            false => refusal,
        };
        let bad = Allowed::Refusal(502, "upstream_bad_response");
        let late = Allowed::Refusal(504, "upstream_header_timeout");
        let garbage = matches!(answer.fault, Fault::Garbage(_));
        let mut allowed = Vec::new();
        let expiry = earliest + self.climate.header_limit;
        let decided = if garbage || sent < layout.head {
            send.answer.end
        } else {
            send.answer.head
        };
        let silent = sent < layout.head && !garbage && answer.then == Then::Stays;
        if silent || decided.is_none_or(|decided| decided >= expiry) {
            allowed.extend([late, Allowed::Headless { lossy: true }]);
        }
        if garbage || sent < layout.head {
            allowed.extend((!silent).then(|| headless(bad)));
            return allowed;
        }
        allowed.extend(self.of_body(answer, &layout, sent));
        if answer.fault == Fault::BadChunk && !layout.bodiless {
            allowed.push(headless(bad)); // it may come with the head
        }
        if self.climate.silences && send.answer.gap >= IDLE_LIMIT {
            allowed.push(Allowed::Broken {
                bytes: answer.bytes,
                lossy: true,
            });
        }
        allowed
    }

    fn of_body(&self, answer: &Answer, layout: &Layout, sent: usize) -> Option<Allowed> {
        if layout.bodiless {
            return Some(Allowed::Whole(0));
        }
        let unchunked = answer.framing == Framing::Chunked && self.exchange.http10;
        let until_close = answer.framing == Framing::UntilClose;
        let lossy = unchunked || until_close || self.followed;
        let behind = sent - layout.head;
        let vouched = match answer.then {
            Then::Ends(_, Ending::Fin) => true,
            Then::Ends(_, Ending::BareFin) => !self.climate.tls,
            _ => false,
        };
        Some(match (answer.framing, answer.cut) {
            _ if answer.fault == Fault::BadChunk => Allowed::Broken {
                bytes: answer.bytes,
                lossy: true,
            },
            (Framing::UntilClose, _) if vouched => Allowed::Whole(behind.min(answer.bytes)),
            (Framing::UntilClose, _) => Allowed::Broken {
                bytes: behind,
                lossy,
            },
            (_, None) => Allowed::Whole(answer.bytes),
            (Framing::Length, Some(_)) => Allowed::Broken {
                bytes: behind,
                lossy,
            },
            (Framing::Chunked, Some(_)) => {
                let bytes = data_of(&layout.wire[layout.head..sent]);
                Allowed::Broken { bytes, lossy }
            }
        })
    }

    /// The interim responses among the first `sent` bytes that are passed on.
    pub fn interim(&self, answer: &Answer, layout: &Layout, sent: usize) -> Vec<u16> {
        let whole = layout.interim_ends.iter().zip(&answer.interim);
        let whole = whole.filter(|(end, _)| **end <= sent);
        let passed = whole.filter(|(_, status)| {
            let answered = **status == 100 && self.exchange.expect;
            !self.exchange.http10 && !answered
        });
        passed.map(|(_, status)| *status).collect()
    }
}

/// A sending that drew no byte in time.
struct Failed {
    /// Before this moment the proxy cannot have known.
    since: Instant,
    /// By a close or a reset: what a stale connection looks like.
    closed: bool,
    /// There was a byte, but perhaps too late.
    late: bool,
    /// The close may have come after the time-out.
    unsure: bool,
    refusals: Vec<Allowed>,
}

/// How much data is in the beginning of a chunked body.
fn data_of(mut wire: &[u8]) -> usize {
    let mut bytes = 0;
    while let Some(end) = wire.windows(2).position(|pair| pair == b"\r\n") {
        let size = std::str::from_utf8(&wire[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let behind = &wire[end + 2..];
        bytes += size.min(behind.len());
        wire = behind.get(size + 2..).unwrap_or_default();
        if size == 0 {
            break;
        }
    }
    bytes
}
