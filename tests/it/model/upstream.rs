//! The upstream's side: plays the move that the script has for a sending, and notes what happened.
use std::collections::HashMap;
use std::io::Write;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::message::request_body;
use super::script::{Answer, Ending, Exchange, Fault, Move, Reads, Then};
use crate::support::{Framing, Head, Peer, Stream};

/// How long the proxy's close is waited for without reading: it may stand behind unread bytes.
const DEAF: Duration = Duration::from_secs(2);

/// One sending of a request, as the upstream saw it.
#[derive(Clone)]
pub struct Send {
    pub connection: usize,
    /// The connection had carried a request before.
    pub reused: bool,
    pub began: Instant,
    pub head: Head,
    pub received: usize,
    /// Every byte of the body was the one that belongs there.
    pub same: bool,
    /// What was written before the connection was found closed, and when.
    pub answer: Wrote,
    /// When the upstream began to end the connection without having sent a byte.
    pub ended: Option<Instant>,
    /// The end was that of an idle connection, before the request came.
    pub was_idle: bool,
    /// Nothing more will be noted.
    pub over: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Wrote {
    pub bytes: usize,
    /// When the first byte had been written, and the last of the final head.
    pub first: Option<Instant>,
    pub head: Option<Instant>,
    /// When everything had been written and, if the script says so, the connection ended.
    pub end: Option<Instant>,
    /// The longest time between two writes.
    pub gap: Duration,
}

impl Send {
    /// In words, with times since `start`.
    pub fn told(&self, start: Instant) -> String {
        let when = |when: Option<Instant>| when.map(|when| when - start);
        let Wrote {
            bytes,
            first,
            head,
            end,
            gap,
        } = &self.answer;
        format!(
            "  {:?} on connection {} (reused: {}, ended before: {}): {} bytes of body, right: {}; \
             ended {:?}; wrote {bytes} bytes, the first {:?}, the head {:?}, the end {:?}, gap {gap:?}\n",
            self.began - start,
            self.connection,
            self.reused,
            self.was_idle,
            self.received,
            self.same,
            when(self.ended),
            when(*first),
            when(*head),
            when(*end),
        )
    }
}

/// What both sides know of an exchange.
pub struct Part {
    pub exchange: Exchange,
    sends: Mutex<Vec<Send>>,
    noted: Condvar,
}

impl Part {
    pub fn new(exchange: Exchange) -> Self {
        Self {
            exchange,
            sends: Mutex::default(),
            noted: Condvar::new(),
        }
    }

    pub fn sends(&self) -> Vec<Send> {
        self.sends.lock().unwrap().clone()
    }

    /// Waits until so many sendings have come, and not for ever: it may never happen.
    pub fn wait(&self, count: usize, limit: Duration) {
        let sends = self.sends.lock().unwrap();
        let few = |sends: &mut Vec<Send>| sends.len() < count;
        drop(self.noted.wait_timeout_while(sends, limit, few).unwrap());
    }

    fn begin(&self, send: Send) -> usize {
        let mut sends = self.sends.lock().unwrap();
        sends.push(send);
        self.noted.notify_all();
        sends.len() - 1
    }

    fn note(&self, number: usize, what: impl FnOnce(&mut Send)) {
        what(&mut self.sends.lock().unwrap()[number]);
    }
}

/// All exchanges under way, and what nobody expected.
#[derive(Default)]
pub struct World {
    parts: Mutex<HashMap<u64, Arc<Part>>>,
    strays: Mutex<Vec<String>>,
}

impl World {
    pub fn add(&self, exchange: &Exchange) -> Arc<Part> {
        let part = Arc::new(Part::new(exchange.clone()));
        self.parts
            .lock()
            .unwrap()
            .insert(exchange.id, Arc::clone(&part));
        part
    }

    pub fn strays(&self) -> Vec<String> {
        self.strays.lock().unwrap().clone()
    }

    /// Forgets the exchanges; more of them would be strays.
    pub fn clear(&self) {
        self.parts.lock().unwrap().clear();
    }

    fn stray(&self, what: String) {
        self.strays.lock().unwrap().push(what);
    }

    fn part(&self, head: &Head) -> Option<Arc<Part>> {
        let id = head
            .line()
            .split(' ')
            .nth(1)?
            .strip_prefix('/')?
            .parse()
            .ok()?;
        self.parts.lock().unwrap().get(&id).cloned()
    }

    /// Plays one connection from its first request to its end.
    pub fn serve(&self, peer: &mut Peer) {
        let (mut served, mut ended) = (0, None);
        while let Ok(head) = peer.wire().head() {
            let began = Instant::now();
            let Some(part) = self.part(&head) else {
                self.stray(format!("a request that no script has: {}", head.text()));
                return peer.reset();
            };
            let send = Send {
                connection: peer.number,
                reused: served > 0,
                began,
                head,
                received: 0,
                same: true,
                answer: Wrote::default(),
                ended,
                was_idle: ended.is_some(),
                over: false,
            };
            let number = part.begin(send);
            let mut act = Act {
                peer: &mut *peer,
                part: &part,
                number,
            };
            let after = match ended {
                None => act.play(),
                Some(_) => act.finish_reading().unused(),
            };
            part.note(number, |send| send.over = true);
            match after {
                After::Gone => return,
                After::Kept => (),
                After::Ended(when) => ended = Some(when),
                After::Unusable => return self.nothing_more(peer, &part),
            }
            served += 1;
        }
    }

    /// The connection must not be used again.
    fn nothing_more(&self, peer: &mut Peer, part: &Part) {
        let (more, _) = peer.wire().rest();
        peer.close();
        if !more.is_empty() {
            let (text, id) = (String::from_utf8_lossy(&more), part.exchange.id);
            self.stray(format!(
                "used again after request {id}: {}",
                text.get(..200).unwrap_or(&text)
            ));
        }
    }
}

/// What may come after an act.
enum After {
    /// Another request.
    Kept,
    /// One that the proxy sent before it saw the end, which was made at this moment.
    Ended(Instant),
    /// Nothing but the proxy's close.
    Unusable,
    /// The connection is closed.
    Gone,
}

impl After {
    fn unused(self) -> Self {
        match self {
            Self::Gone => Self::Gone,
            _ => Self::Unusable,
        }
    }
}

/// One sending and the move that answers it.
struct Act<'a> {
    peer: &'a mut Peer,
    part: &'a Part,
    number: usize,
}

impl Act<'_> {
    fn play(&mut self) -> After {
        let exchange = &self.part.exchange;
        match &exchange.moves[self.number.min(exchange.moves.len() - 1)] {
            Move::Silent(reads) => {
                self.read(*reads);
                hung_up(self.peer, DEAF);
                self.finish_reading().unused()
            }
            Move::Ends(reads, delay, ending) => {
                self.read(*reads);
                pause(*delay);
                self.part
                    .note(self.number, |send| send.ended = Some(Instant::now()));
                self.end(*ending).unused()
            }
            Move::Answers(answer) => {
                self.read(answer.reads);
                pause(answer.delay);
                self.answer(answer)
            }
        }
    }

    fn answer(&mut self, answer: &Answer) -> After {
        let exchange = &self.part.exchange;
        let layout = answer.layout(exchange.method, exchange.id, self.number);
        let end = answer.cut.unwrap_or(layout.wire.len());
        let stops = answer.pauses.iter().copied().filter(|(at, _)| *at < end);
        let mut wrote = Wrote::default();
        let mut before = Instant::now();
        for (stop, millis) in stops.chain([(end, 0)]) {
            let piece = &layout.wire[wrote.bytes..stop];
            if !piece.is_empty() {
                if !self.peer.send_if_taken(piece) {
                    break;
                }
                let after = Instant::now();
                wrote.bytes = stop;
                wrote.first.get_or_insert(after);
                if stop >= layout.head {
                    wrote.head.get_or_insert(after);
                }
                wrote.gap = wrote.gap.max(after - before);
                before = after;
            }
            pause(millis);
        }
        let all = wrote.bytes == end;
        self.part.note(self.number, |send| send.answer = wrote);
        match answer.then {
            _ if !all => self.finish_reading().unused(),
            Then::Ends(idle, ending) if answer.keeps(exchange.method) => {
                match self.finish_reading() {
                    // Another request may come first.
                    After::Kept if !readable(self.peer, Duration::from_millis(idle)) => {
                        let now = Instant::now();
                        end_writing(self.peer, ending);
                        After::Ended(now)
                    }
                    after => after,
                }
            }
            Then::Ends(_, ending) => {
                if ending == Ending::Rst {
                    self.peer.until_taken(); // a reset destroys what was not
                }
                self.end(ending).unused()
            }
            Then::Stays => {
                self.decided();
                if answer.cut.is_some()
                    || matches!(answer.fault, Fault::Garbage(_) | Fault::BadChunk)
                {
                    hung_up(self.peer, DEAF);
                }
                match self.finish_reading() {
                    After::Kept if answer.keeps(exchange.method) => After::Kept,
                    after => after.unused(),
                }
            }
        }
    }

    fn end(&mut self, ending: Ending) -> After {
        if ending == Ending::Rst {
            self.peer.reset();
            self.decided();
            return After::Gone;
        }
        end_writing(self.peer, ending);
        self.decided();
        self.finish_reading()
    }

    fn decided(&self) {
        let now = Instant::now();
        self.part
            .note(self.number, |send| send.answer.end = Some(now));
    }

    fn read(&mut self, reads: Reads) {
        let whole = self.part.exchange.body_bytes();
        self.read_to(match reads {
            Reads::Head => 0,
            Reads::Part(bytes) => bytes.min(whole),
            Reads::All => whole,
        });
    }

    fn finish_reading(&mut self) -> After {
        match self.read_to(self.part.exchange.body_bytes()) {
            true => After::Kept,
            false => {
                self.peer.close();
                After::Gone
            }
        }
    }

    /// Reads the body up to byte `end`; whether it came.
    fn read_to(&mut self, end: usize) -> bool {
        let (mut received, mut same) = {
            let send = &self.part.sends.lock().unwrap()[self.number];
            (send.received, send.same)
        };
        let body = request_body(self.part.exchange.id);
        let length = Framing::Length((end.saturating_sub(received)) as u64);
        let came = self.peer.wire().body(length, &mut |piece| {
            same &= body.has(received, piece);
            received += piece.len();
        });
        self.part.note(self.number, |send| {
            (send.received, send.same) = (received, same)
        });
        came.is_ok()
    }
}

fn pause(millis: u64) {
    if millis > 0 {
        thread::sleep(Duration::from_millis(millis));
    }
}

/// Sends FIN and can still read.
fn end_writing(peer: &mut Peer, ending: Ending) {
    let stream = &mut peer.wire().stream;
    if ending == Ending::Fin
        && let Stream::Tls(tls) = stream
    {
        tls.conn.send_close_notify();
    }
    let _ = stream.flush(); // one that has left does not hear it
    let _ = stream.tcp().shutdown(Shutdown::Write);
}

fn readable(peer: &mut Peer, limit: Duration) -> bool {
    !peer.wire().unread().is_empty() || waits_for(peer, PollFlags::IN, limit)
}

/// Waits until the proxy has closed, without reading.
fn hung_up(peer: &mut Peer, limit: Duration) -> bool {
    waits_for(peer, PollFlags::RDHUP, limit)
}

fn waits_for(peer: &mut Peer, what: PollFlags, limit: Duration) -> bool {
    let tcp = peer.wire().stream.tcp();
    let limit = rustix::event::Timespec::try_from(limit).unwrap();
    let ready = poll(&mut [PollFd::new(tcp, what)], Some(&limit));
    ready.unwrap_or(0) > 0
}
