//! Scripts: what a client does, and what the upstream does with each sending of its requests.
use std::time::Duration;

use crate::support::Dice;

/// What the scripts of one run have in common.
#[derive(Clone, Copy, Debug)]
pub struct Climate {
    pub tls: bool,
    /// UPSTREAM_MAX_ATTEMPTS.
    pub attempts: u32,
    /// RESPONSE_HEADER_TIMEOUT_SECONDS. So short that upstreams may be silent beyond it, or so long
    /// that none is and a busy machine makes no difference.
    pub header_limit: Duration,
    pub silences: bool,
}

#[derive(Debug)]
pub struct Script {
    pub seed: u64,
    /// One after the other, on one connection.
    pub exchanges: Vec<Exchange>,
    pub leaving: Option<Leaving>,
}

#[derive(Clone, Debug)]
pub struct Exchange {
    /// In the target, so that each side finds the other's part.
    pub id: u64,
    pub method: &'static str,
    pub http10: bool,
    /// `Connection: close` is asked for.
    pub close: bool,
    pub expect: bool,
    pub body: Content,
    pub pauses: Vec<(usize, u64)>,
    /// Sent at once behind the request before it.
    pub pipelined: bool,
    /// What the upstream does with the n-th sending.
    pub moves: Vec<Move>,
}

/// The body of a request.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    None,
    Length(usize),
    Chunked { bytes: usize, chunk: usize },
}

#[derive(Clone, Copy, Debug)]
pub struct Leaving {
    /// During which exchange.
    pub exchange: usize,
    pub when: When,
    pub how: How,
}

#[derive(Clone, Copy, Debug)]
pub enum When {
    /// After so many bytes of the request.
    Sending(usize),
    Sent,
    /// Once the n-th sending has reached the upstream, counted from 0.
    Put(usize),
    /// After so many bytes behind the final head.
    Answered(usize),
}

#[derive(Clone, Copy, Debug)]
pub enum How {
    Fin,
    Rst,
    HalfClose,
}

/// How much of a request is read before the upstream does something.
#[derive(Clone, Copy, Debug)]
pub enum Reads {
    Head,
    Part(usize),
    All,
}

#[derive(Clone, Debug)]
pub enum Move {
    /// Not a byte until the proxy gives up.
    Silent(Reads),
    /// Not a byte, then the end after so many milliseconds.
    Ends(Reads, u64, Ending),
    Answers(Box<Answer>),
}

/// How the upstream ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Over TLS behind a close_notify.
    Fin,
    /// Over TLS without one: no vouched end. Otherwise the same.
    BareFin,
    Rst,
}

/// What follows the last byte that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The connection stays open.
    Stays,
    /// It ends after so many idle milliseconds.
    Ends(u64, Ending),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length,
    Chunked,
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Bytes behind the end.
    Excess,
    /// These bytes instead of a head.
    Garbage(&'static str),
    /// A chunk whose size is none.
    BadChunk,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub reads: Reads,
    pub delay: u64,
    pub interim: Vec<u16>,
    pub status: u16,
    pub http10: bool,
    pub close: bool,
    pub framing: Framing,
    pub bytes: usize,
    pub trailers: bool,
    pub fault: Fault,
    /// How many bytes are sent, where that is not all.
    pub cut: Option<usize>,
    pub pauses: Vec<(usize, u64)>,
    pub then: Then,
}

const METHODS: [&str; 8] = [
    "POST", "POST", "POST", "POST", "GET", "HEAD", "PUT", "PATCH",
];
const STATUSES: [u16; 14] = [
    200, 200, 200, 200, 200, 201, 400, 401, 404, 413, 429, 503, 204, 304,
];
const GARBAGE: [&str; 7] = [
    "SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/1.1 2OO OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
];
/// One request on one connection is the rule.
const EXCHANGES: [usize; 8] = [1, 1, 1, 1, 1, 2, 3, 4];
/// A request that is pipelined must fit between two that do not read: the kernel's buffers.
const PIPELINED_MAX: usize = 4000;
/// Exchanges of a script have ids of their own.
pub const IDS: u64 = 8;

impl Dice {
    /// A length in bytes: small as a rule, at times beyond every buffer on the way.
    fn length(&mut self) -> usize {
        match self.below(100) {
            0 => self.below(2 << 20),
            1..=3 => self.below(512 << 10),
            4..=15 => self.below(70_000),
            16..=25 => self.below(3),
            _ => self.below(2000),
        }
    }

    /// Up to three places before `end` at which to pause, and for how many milliseconds.
    fn pauses(&mut self, end: usize) -> Vec<(usize, u64)> {
        if end == 0 || self.one_in(2) {
            return Vec::new();
        }
        let count = 1 + self.below(3);
        let pause = |dice: &mut Self| (dice.below(end), dice.below(12) as u64);
        let mut pauses: Vec<_> = (0..count).map(|_| pause(self)).collect();
        pauses.sort_unstable();
        pauses
    }
}

impl Script {
    pub fn draw(seed: u64, climate: Climate) -> Self {
        let dice = &mut Dice::new(seed);
        let count = dice.of(&EXCHANGES);
        let mut exchanges: Vec<Exchange> = Vec::new();
        for number in 0..count {
            let id = seed.wrapping_mul(IDS).wrapping_add(number as u64);
            let exchange = Exchange::draw(dice, id, number == 0, climate);
            exchanges.push(exchange);
        }
        let leaving = dice.one_in(5).then(|| {
            let exchange = dice.below(count);
            let length = exchanges[exchange].wire().len();
            let pipelined = exchanges[exchange].pipelined
                || exchanges
                    .get(exchange + 1)
                    .is_some_and(|next| next.pipelined);
            let when = match dice.below(if pipelined { 3 } else { 4 }) {
                0 => When::Sent,
                1 => When::Put(dice.of(&[0, 0, 0, 1])),
                2 => When::Answered(dice.length()),
                _ => When::Sending(dice.below(length)),
            };
            let how = dice.of(&[How::Fin, How::Rst, How::HalfClose]);
            Leaving {
                exchange,
                when,
                how,
            }
        });
        Self {
            seed,
            exchanges,
            leaving,
        }
    }
}

impl Exchange {
    fn draw(dice: &mut Dice, id: u64, first: bool, climate: Climate) -> Self {
        let method = dice.of(&METHODS);
        let pipelined = !first && dice.one_in(2);
        let max = if pipelined { PIPELINED_MAX } else { usize::MAX };
        let bytes = dice.length().min(max);
        let http10 = dice.one_in(12);
        let body = match dice.below(3) {
            _ if matches!(method, "GET" | "HEAD") => Content::None,
            0 if !http10 => Content::Chunked {
                bytes,
                chunk: 1 + dice.below(bytes.min(70_000) + 10).max(bytes / 200),
            },
            _ => Content::Length(bytes),
        };
        let mut exchange = Self {
            id,
            method,
            http10,
            close: dice.one_in(15),
            expect: !http10 && !pipelined && dice.one_in(12),
            body,
            pauses: Vec::new(),
            pipelined,
            // One sending more than there may ever be.
            moves: (0..climate.attempts + 2)
                .map(|_| Move::draw(dice, method, climate))
                .collect(),
        };
        exchange.pauses = dice.pauses(exchange.wire().len());
        exchange
    }

    pub fn is_idempotent(&self) -> bool {
        !matches!(self.method, "POST" | "PATCH")
    }

    pub fn body_bytes(&self) -> usize {
        match self.body {
            Content::None => 0,
            Content::Length(bytes) | Content::Chunked { bytes, .. } => bytes,
        }
    }
}

impl Move {
    fn draw(dice: &mut Dice, method: &str, climate: Climate) -> Self {
        let reads = |dice: &mut Dice| match dice.below(6) {
            0 => Reads::Head,
            1 => Reads::Part(dice.length()),
            _ => Reads::All,
        };
        match dice.below(10) {
            0 if climate.silences => Self::Silent(reads(dice)),
            0..=2 => {
                let (reads, delay) = (reads(dice), dice.below(10) as u64);
                Self::Ends(reads, delay, ending(dice))
            }
            _ => Self::Answers(Box::new(Answer::draw(dice, reads, method, climate))),
        }
    }
}

fn ending(dice: &mut Dice) -> Ending {
    dice.of(&[Ending::Fin, Ending::BareFin, Ending::Rst])
}

impl Answer {
    fn draw(
        dice: &mut Dice,
        reads: impl Fn(&mut Dice) -> Reads,
        method: &str,
        climate: Climate,
    ) -> Self {
        let framing = dice.of(&[
            Framing::Length,
            Framing::Length,
            Framing::Chunked,
            Framing::UntilClose,
        ]);
        let fault = match dice.below(30) {
            0..=1 => Fault::Excess,
            2 => Fault::Garbage(dice.of(&GARBAGE)),
            3 if framing == Framing::Chunked => Fault::BadChunk,
            _ => Fault::None,
        };
        let limit = climate.header_limit.as_millis() as usize;
        let mut answer = Self {
            reads: reads(dice),
            delay: match dice.below(20) {
                0 if climate.silences => (limit * (8 + dice.below(4)) / 10) as u64,
                1..=6 => dice.below(30) as u64,
                _ => 0,
            },
            interim: match dice.below(8) {
                0 => (0..=dice.below(3))
                    .map(|_| dice.of(&[100, 102, 103]))
                    .collect(),
                _ => Vec::new(),
            },
            status: dice.of(&STATUSES),
            http10: framing != Framing::Chunked && dice.one_in(15),
            close: dice.one_in(10),
            framing,
            bytes: dice.length(),
            trailers: dice.one_in(3),
            fault,
            cut: None,
            pauses: Vec::new(),
            then: Then::Stays,
        };
        answer.end(dice, method, climate);
        answer
    }

    /// Whether and where it is cut, and what becomes of the connection.
    fn end(&mut self, dice: &mut Dice, method: &str, climate: Climate) {
        let (bodiless, until_close) = (
            bodiless(method, self.status),
            self.framing == Framing::UntilClose,
        );
        let makes_sense = match self.fault {
            Fault::BadChunk => !bodiless,
            Fault::Excess => bodiless || !until_close,
            _ => true,
        };
        if !makes_sense {
            self.fault = Fault::None;
        }
        let layout = self.layout(method, 0, 0);
        let length = layout.wire.len();
        self.pauses = dice.pauses(length);
        if self.fault == Fault::Excess {
            // In one write with the end of the response: what comes later is anybody's.
            let last = length - layout.excess - layout.excess.min(length - layout.excess);
            self.pauses.retain(|(at, _)| *at < last);
            self.pauses.push((last, 0));
        }
        let sound = matches!(self.fault, Fault::None);
        if sound && dice.one_in(5) {
            let end = if dice.one_in(2) { layout.head } else { length };
            self.cut = Some(1 + dice.below(end)).filter(|sent| *sent < length);
        }
        let whole = sound && self.cut.is_none() && (bodiless || !until_close);
        self.then = match dice.below(8) {
            0..=2 if whole => Then::Ends(
                dice.below(20) as u64,
                dice.of(&[Ending::Fin, Ending::BareFin]),
            ),
            _ if whole => Then::Stays,
            0 if climate.silences || !sound => Then::Stays,
            _ => Then::Ends(0, ending(dice)),
        };
    }

    /// Whether the connection may carry another request after it.
    pub fn keeps(&self, method: &str) -> bool {
        let length = self.framing != Framing::UntilClose || bodiless(method, self.status);
        length && !self.close && !self.http10 && self.fault == Fault::None && self.cut.is_none()
    }
}

/// RFC 9112 6.3, item 1.
pub fn bodiless(method: &str, status: u16) -> bool {
    method == "HEAD" || matches!(status, 204 | 304)
}
