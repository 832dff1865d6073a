//! The requests of the soak: what each is for, what the origin does with it, and what must come of it.
use crate::{
    origin::{EMPTY, hash},
    pattern::Pattern,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SMALL: Range = (200, 2000);
const MIDDLE: Range = (64 * KIB, MIB);
const LARGE: Range = (64 * KIB, 4 * MIB);
/// Of a request body in chunked coding.
const CHUNK_BYTES: usize = 7000;

/// From and up to.
type Range = (u64, u64);

/// Some of the requests that have something in common.
pub(super) struct Lot {
    pub(super) name: &'static str,
    /// How many of `SHARES` requests.
    share: u64,
    /// What the origin does with it, time after time; `*` is a number of `size`.
    steps: &'static str,
    size: Range,
    body: Range,
    /// On a connection of its own, which it asks to be closed.
    fresh: bool,
    pub(super) due: Due,
}

/// What must come of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The answer of the last step.
    Answer,
    /// A response with this status.
    Status(u16),
    /// The beginning of a response, and an end that shows.
    Broken,
    /// Nothing: the client leaves.
    Left(Place),
}

/// Where a client is when it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Head,
    Body,
    /// So many milliseconds at most after it has sent the request.
    Waiting(u64),
    /// After so many bytes of the response at most.
    Response(u64),
}

/// How a client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Close,
    Reset,
    /// It closes its side and waits for the other one.
    HalfClose,
}

/// The response body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// That of a plan.
    Plan,
    Bytes(u64),
    Events {
        count: u64,
        bytes: usize,
    },
}

/// All shares together.
const SHARES: u64 = 1000;

pub(super) const LOTS: &[Lot] = &[
    lot("small", 483, "ok", Due::Answer),
    Lot {
        fresh: true,
        ..lot("small, new connection", 150, "ok", Due::Answer)
    },
    sent(LARGE, lot("upload", 40, "ok", Due::Answer)),
    sized(
        (256 * KIB, 16 * MIB),
        lot("download", 30, "bytes:*", Due::Answer),
    ),
    sized(
        LARGE,
        lot("download, chunked", 20, "bytes:*:chunked", Due::Answer),
    ),
    sized(
        LARGE,
        lot("download until close", 5, "bytes:*:close", Due::Answer),
    ),
    lot("events", 20, "sse:40:300:25000", Due::Answer),
    sized(
        (100, 2000),
        lot("events, flat out", 5, "sse:*:1000:0", Due::Answer),
    ),
    lot("pauses", 10, "pause,ok", Due::Answer),
    lot("head byte by byte", 2, "fault:slow-head:2", Due::Answer),
    sized(
        (50, 500),
        lot("body byte by byte", 5, "fault:slow-body:*:2", Due::Answer),
    ),
    lot("hangs once", 15, "silent,ok", Due::Answer),
    lot("hangs twice", 3, "silent,silent,ok", Due::Status(504)),
    lot("reset", 15, "reset,ok", Due::Answer),
    sent(
        MIDDLE,
        lot("reset before the body", 15, "reset-at-once,ok", Due::Answer),
    ),
    lot("half a head, reset", 10, "half-head,ok", Due::Status(502)),
    lot(
        "half a head, hangs",
        3,
        "half-head-hang,ok",
        Due::Status(504),
    ),
    lot("no HTTP", 10, "garbage,ok", Due::Status(502)),
    lot("cut", 10, "cut,ok", Due::Broken),
    lot("cut, chunked", 10, "cut-chunked,ok", Due::Broken),
    sized(
        (0, 8 * MIB - 1),
        lot("download cut", 10, "fault:cut:8388608:*,ok", Due::Broken),
    ),
    sized(
        (0, 8 * MIB - 1),
        lot(
            "download cut, chunked",
            10,
            "fault:cut-chunked:8388608:*,ok",
            Due::Broken,
        ),
    ),
    sent(
        LARGE,
        lot("answered early", 15, "fault:early:413,ok", Due::Status(413)),
    ),
    lot("leaves in the head", 12, "ok", Due::Left(Place::Head)),
    sent(
        MIDDLE,
        lot("leaves in the body", 15, "ok", Due::Left(Place::Body)),
    ),
    lot(
        "leaves while it waits",
        25,
        "silent,ok",
        Due::Left(Place::Waiting(100)),
    ),
    lot(
        "leaves before a retry",
        12,
        "reset,ok",
        Due::Left(Place::Waiting(300)),
    ),
    lot(
        "leaves in a download",
        20,
        "bytes:16777216",
        Due::Left(Place::Response(8 * MIB)),
    ),
    lot(
        "leaves in events",
        20,
        "sse:200:300:10000",
        Due::Left(Place::Response(6000)),
    ),
];

const fn lot(name: &'static str, share: u64, steps: &'static str, due: Due) -> Lot {
    Lot {
        name,
        share,
        steps,
        size: (0, 0),
        body: SMALL,
        fresh: false,
        due,
    }
}

const fn sized(size: Range, lot: Lot) -> Lot {
    Lot { size, ..lot }
}

const fn sent(body: Range, lot: Lot) -> Lot {
    Lot { body, ..lot }
}

/// A request as it is sent, and by what it is known.
pub(super) struct Request {
    pub(super) id: String,
    /// Its place in [`LOTS`].
    pub(super) lot: usize,
    /// Head and body.
    pub(super) bytes: Vec<u8>,
    pub(super) head_bytes: usize,
    pub(super) body_hash: u64,
    pub(super) answer: Answer,
    pub(super) fresh: bool,
    /// For a client that leaves.
    pub(super) leaves: How,
    /// At what share of the way through where it leaves.
    pub(super) share: f64,
}

impl Request {
    pub(super) fn due(&self) -> Due {
        LOTS[self.lot].due
    }
}

#[derive(Default)]
pub(super) struct Script {
    pattern: Pattern,
}

impl Script {
    pub(super) fn request(&self, index: u64) -> Request {
        let id = format!("soak-{index}");
        let place = place(drawn(index, 0) % SHARES);
        let lot = &LOTS[place];
        let steps = lot
            .steps
            .replace('*', &within(lot.size, drawn(index, 1)).to_string());
        let mut answers = steps.split(',').map(answer);
        let answer = match lot.due {
            Due::Broken => answers.next(),
            _ => answers.next_back(),
        };
        let answer = answer.unwrap_or(Answer::Plan);

        let mut body = id.clone().into_bytes();
        let length = within(lot.body, drawn(index, 2)) as usize;
        let filling = length - body.len();
        let first = drawn(index, 3);
        while body.len() < length {
            let at = body.len() + filling - length;
            let piece = self
                .pattern
                .at(first % (1 << 32) + at as u64, length - body.len());
            body.extend_from_slice(piece);
        }
        let body_hash = hash(EMPTY, &body);

        let is_chunked = drawn(index, 4).is_multiple_of(4);
        let framing = match is_chunked {
            true => "Transfer-Encoding: chunked".to_owned(),
            false => format!("Content-Length: {length}"),
        };
        let close = if lot.fresh {
            "Connection: close\r\n"
        } else {
            ""
        };
        let head = format!(
            "POST /plan/{id}/{steps} HTTP/1.1\r\nHost: localhost\r\n{close}\
             Content-Type: application/json\r\n{framing}\r\n\r\n"
        );
        let mut bytes = head.into_bytes();
        let head_bytes = bytes.len();
        match is_chunked {
            true => chunk(&mut bytes, &body),
            false => bytes.extend_from_slice(&body),
        }
        let leaves = [How::Close, How::Reset, How::HalfClose][drawn(index, 5) as usize % 3];
        Request {
            id,
            lot: place,
            bytes,
            head_bytes,
            body_hash,
            answer,
            fresh: lot.fresh,
            leaves,
            share: (drawn(index, 6) % 1000) as f64 / 1000.0,
        }
    }
}

fn chunk(bytes: &mut Vec<u8>, body: &[u8]) {
    for piece in body.chunks(CHUNK_BYTES) {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
}

/// What the origin answers in a step, or begins to.
fn answer(step: &str) -> Answer {
    let parts: Vec<&str> = step.split(':').collect();
    let number = |at: usize| parts[at].parse().unwrap_or(0);
    match parts[..] {
        ["bytes", ..] => Answer::Bytes(number(1)),
        ["sse", ..] => Answer::Events {
            count: number(1),
            bytes: number(2) as usize,
        },
        ["fault", "slow-body" | "cut" | "cut-chunked", ..] => Answer::Bytes(number(2)),
        ["fault", "slow-head", ..] => Answer::Bytes(1024),
        _ => Answer::Plan,
    }
}

fn place(mut drawn: u64) -> usize {
    let is_met = |lot: &Lot| match drawn.checked_sub(lot.share) {
        Some(left) => {
            drawn = left;
            false
        }
        None => true,
    };
    let place = LOTS.iter().position(is_met);
    place.expect("the shares add up to SHARES")
}

fn within((from, to): Range, drawn: u64) -> u64 {
    from + drawn % (to - from + 1)
}

/// A number that looks random and is always the same (SplitMix64).
pub(super) fn drawn(index: u64, what: u64) -> u64 {
    let mut state = (index * 8 + what + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_whole_and_few_requests_meet_every_lot() {
        assert_eq!(LOTS.iter().map(|lot| lot.share).sum::<u64>(), SHARES);
        let mut met: Vec<usize> = (0..4000)
            .map(|index| place(drawn(index, 0) % SHARES))
            .collect();
        met.sort_unstable();
        met.dedup();
        assert_eq!(met.len(), LOTS.len());
    }

    #[test]
    fn requests_differ_in_body_and_the_hash_is_that_of_the_content() {
        let script = Script::default();
        let mut hashes = Vec::new();
        for index in 0..300 {
            let request = script.request(index);
            let content = request.bytes[request.head_bytes..].to_vec();
            let head = String::from_utf8_lossy(&request.bytes[..request.head_bytes]).into_owned();
            if head.contains("Content-Length") {
                assert_eq!(hash(EMPTY, &content), request.body_hash, "{head}");
            }
            hashes.push(request.body_hash);
        }
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 300);
    }
}
