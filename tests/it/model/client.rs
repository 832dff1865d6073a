//! The client's side: sends the requests of a script, reads what comes, or leaves.
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::script::{Content, How, Script, When};
use super::upstream::Part;
use crate::support::net::close_with_reset;
use crate::support::{Cut, DEADLINE, Framing, Gone, Head, Response, Stream, Wire};

/// How long a client waits for a sending that may never come.
const WATCH: Duration = Duration::from_millis(300);

/// What the client saw of one exchange.
#[derive(Debug)]
pub struct Seen {
    /// Just before the last bytes of the request went out.
    pub sent: Option<Instant>,
    pub interim: Vec<u16>,
    pub end: End,
}

#[derive(Debug)]
pub enum End {
    /// The connection ended before its turn.
    Never,
    /// The client left before it was told all.
    Left,
    Whole(Response),
    Cut(Cut),
}

/// What the client saw of its connection.
#[derive(Debug)]
pub struct Visit {
    pub seen: Vec<Seen>,
    /// When it had left, where it left early.
    pub left: Option<Instant>,
    /// What is wrong whatever the upstream did.
    pub faults: Vec<String>,
}

impl Visit {
    /// In words, with times since `start`.
    pub fn told(&self, start: Instant) -> String {
        let when = |when: Option<Instant>| when.map(|when| when - start);
        let sent: Vec<_> = self.seen.iter().map(|seen| when(seen.sent)).collect();
        format!("the client sent {sent:?} and left {:?}\n", when(self.left))
    }
}

pub fn visit(script: &Script, parts: &[Arc<Part>], addr: SocketAddr) -> Visit {
    let never = || Seen {
        sent: None,
        interim: Vec::new(),
        end: End::Never,
    };
    let tcp = TcpStream::connect_timeout(&addr, DEADLINE).unwrap();
    let mut client = Client {
        wire: Some(Wire::new(Stream::Plain(tcp))),
        script,
        parts,
        is_reset: false,
        visit: Visit {
            seen: script.exchanges.iter().map(|_| never()).collect(),
            left: None,
            faults: Vec::new(),
        },
    };
    let mut sent = 0;
    for number in 0..script.exchanges.len() {
        if !client.exchange(number, &mut sent) {
            break;
        }
    }
    client.bytes_unasked_for();
    client.visit
}

struct Client<'a> {
    /// `None` once it has left.
    wire: Option<Wire>,
    script: &'a Script,
    parts: &'a [Arc<Part>],
    is_reset: bool,
    visit: Visit,
}

impl Client<'_> {
    fn wire(&mut self) -> &mut Wire {
        self.wire.as_mut().expect("the client has not left")
    }

    /// One exchange; whether the connection goes on after it. `sent`: how many requests are out.
    fn exchange(&mut self, number: usize, sent: &mut usize) -> bool {
        let exchanges = &self.script.exchanges;
        let pipelined = |next: usize| exchanges.get(next).is_some_and(|next| next.pipelined);
        while *sent <= number || pipelined(*sent) {
            if !self.send(*sent) {
                return false;
            }
            *sent += 1;
        }
        match self.leaving(number) {
            Some(When::Sent) => return self.leave(number),
            Some(When::Put(send)) => {
                self.parts[number].wait(send + 1, WATCH);
                return self.leave(number);
            }
            _ => (),
        }
        let head = match self.final_head(number) {
            Ok(head) => head,
            Err(gone) => {
                let body = self.wire().unread().to_vec();
                self.wire = None;
                self.visit.seen[number].end = End::Cut(Cut {
                    head: None,
                    body,
                    reset: gone.reset,
                });
                return false;
            }
        };
        if let Some(When::Answered(bytes)) = self.leaving(number) {
            let least = match Framing::of_response(exchanges[number].method, &head) {
                Framing::Length(length) => bytes.min(length as usize),
                Framing::Chunked => bytes.min("0\r\n\r\n".len()),
                Framing::UntilClose => bytes,
            };
            let _ = self.wire().exact(least); // or less, where it is cut
            return self.leave(number);
        }
        self.body(number, head)
    }

    fn leaving(&self, number: usize) -> Option<When> {
        let leaving = self
            .script
            .leaving
            .filter(|leaving| leaving.exchange == number);
        leaving.map(|leaving| leaving.when)
    }

    /// Sends a request; whether the client is still there.
    fn send(&mut self, number: usize) -> bool {
        let exchange = &self.script.exchanges[number];
        let wire = exchange.wire();
        let head = exchange.head().len();
        let end = match self.leaving(number) {
            Some(When::Sending(bytes)) => bytes,
            _ => wire.len(),
        };
        // Half of those that expect 100 (Continue) do not wait for it.
        let waits = exchange.expect && !matches!(exchange.body, Content::None | Content::Length(0));
        let waits = waits && exchange.id.is_multiple_of(2) && end > head;
        let mut stops = exchange.pauses.clone();
        if waits {
            stops.retain(|(at, _)| *at > head);
            stops.insert(0, (head, 0));
        }
        let mut at = 0;
        stops.retain(|(stop, _)| *stop < end);
        for (stop, millis) in stops.into_iter().chain([(end, 0)]) {
            if stop == wire.len() {
                self.visit.seen[number].sent = Some(Instant::now());
            }
            if self.wire().try_send(&wire[at..stop]).is_err() {
                // What the proxy said before it closed is there to be read, and then an end: the
                // kernel tells of a reset once.
                self.is_reset = true;
                return true;
            }
            at = stop;
            if waits && stop == head && !self.goes_on(number) {
                return true;
            }
            thread::sleep(Duration::from_millis(millis));
        }
        end == wire.len() || self.leave(number)
    }

    /// Whether 100 (Continue) comes.
    fn goes_on(&mut self, number: usize) -> bool {
        let Ok(head) = self.wire().head() else {
            return false;
        };
        self.visit.seen[number].interim.push(head.status());
        if head.status() != 100 {
            self.visit
                .faults
                .push(format!("instead of 100: {}", head.text()));
        }
        head.status() == 100
    }

    fn final_head(&mut self, number: usize) -> Result<Head, Gone> {
        loop {
            let head = self.wire().head()?;
            if head.status() >= 200 {
                return Ok(head);
            }
            self.visit.seen[number].interim.push(head.status());
        }
    }

    fn body(&mut self, number: usize, head: Head) -> bool {
        let exchange = &self.script.exchanges[number];
        let framing = Framing::of_response(exchange.method, &head);
        let mut body = Vec::new();
        let end = self
            .wire()
            .body(framing, &mut |piece| body.extend_from_slice(piece));
        let until_close = matches!(framing, Framing::UntilClose);
        let closes = head.closes() || until_close;
        let whole = end.is_ok() && !(until_close && self.is_reset);
        self.visit.seen[number].end = match end {
            Ok(trailers) if whole => End::Whole(Response {
                head,
                body,
                trailers,
            }),
            Ok(_) | Err(_) => End::Cut(Cut {
                head: Some(head),
                body,
                reset: self.is_reset || end.is_err_and(|gone| gone.reset),
            }),
        };
        if !whole {
            self.wire = None;
        }
        if whole && closes {
            let (more, _) = self.wire().rest();
            if !more.is_empty() {
                let text = String::from_utf8_lossy(&more);
                self.visit
                    .faults
                    .push(format!("bytes before the close: {text:?}"));
            }
        }
        whole && !closes
    }

    fn leave(&mut self, number: usize) -> bool {
        self.visit.seen[number].end = End::Left;
        let how = self.script.leaving.unwrap().how;
        match how {
            How::HalfClose => _ = self.wire().stream.tcp().shutdown(Shutdown::Write),
            How::Rst => close_with_reset(self.wire().stream.tcp()),
            How::Fin => (),
        }
        let mut wire = mem::take(&mut self.wire).filter(|_| matches!(how, How::HalfClose));
        self.visit.left = Some(Instant::now());
        if let Some(wire) = &mut wire {
            wire.discard(); // until the proxy closes: it must
        }
        false
    }

    /// After all exchanges nothing is on its way.
    fn bytes_unasked_for(&mut self) {
        let Some(wire) = &mut self.wire else { return };
        let tcp = wire.stream.tcp();
        tcp.set_nonblocking(true).unwrap();
        let mut more = [0; 256];
        let count = tcp.peek(&mut more).unwrap_or(0);
        let unasked = [wire.unread(), &more[..count]].concat();
        if !unasked.is_empty() {
            let text = String::from_utf8_lossy(&unasked);
            self.visit
                .faults
                .push(format!("bytes that nobody asked for: {text:?}"));
        }
    }
}
