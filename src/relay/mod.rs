//! Bytes after both commits: they follow the framing to the message's end, or break off visibly.
pub mod body;
mod splice;
pub mod tunnel;

use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::downstream::client::Left;
use crate::downstream::reply::{Answered, Answering};
use crate::http1::framing::Framing;
use crate::net::buffer::Buffer;
use crate::net::deadline::Deadline;
use crate::net::driver::yield_to_others;
use crate::net::quota::{Quota, Taken};
use crate::net::select;
use crate::relay::body::Body;
use crate::upstream::connection::Connection;
use crate::upstream::response::Response;

/// Bytes read before the other tasks of the core get their turn.
const YIELD_BYTES: u64 = 1 << 20;
/// How long, and how far, upstream's response is followed for a client that has left: Codex leaves
/// as soon as it has its last event, and the end of that response saves the connection.
const DRAIN: Duration = Duration::from_millis(100);
const DRAIN_BYTES_MAX: u64 = 64 << 10;
/// Responses that a core follows so at the same time; a crowd that leaves saves no connections.
const DRAINS_MAX: u64 = 64;

thread_local! {
    static DRAINS: Rc<Quota> = Quota::of_core(DRAINS_MAX);
}

/// Responses of this core that are followed for clients that have left.
pub fn drains() -> u64 {
    DRAINS.with(|drains| drains.held())
}

/// A response body on its way.
pub struct Relay {
    response: Response,
    body: Body,
    /// Beyond the response's end there were more bytes: the connection is out of step.
    excess: bool,
    ended: bool,
    /// The last read filled its buffer: more is there already.
    bulk: bool,
    /// What the last read brought; the next one gets room for twice as much.
    last_read: usize,
    /// There was no pipe to be had: bytes are read and written instead.
    no_pipe: bool,
    since_yield: u64,
    idle_timeout: Option<Duration>,
}

/// How relaying ended.
pub struct Relayed {
    /// The client's side.
    pub answered: Answered,
    /// The upstream's connection, if it can serve another exchange.
    pub conn: Option<Connection>,
    /// Whether the message was completed.
    pub result: Result<(), Aborted>,
}

/// Why a response was broken off.
#[derive(Debug)]
pub enum Aborted {
    /// The client has left; whether upstream's response came to its end nevertheless.
    ClientLeft {
        /// The whole response had been sent by the upstream.
        complete: bool,
    },
    /// The client took no byte within `CLIENT_WRITE_TIMEOUT_SECONDS`.
    ClientStalled,
    /// The upstream's connection ended within the message.
    Cut(io::Error),
    /// The upstream's body is malformed.
    Malformed(&'static str),
    /// The upstream was silent for `STREAM_IDLE_TIMEOUT_SECONDS`.
    Idle,
}

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientLeft { .. } => f.write_str("the client left"),
            Self::ClientStalled => {
                f.write_str("the client took no bytes (CLIENT_WRITE_TIMEOUT_SECONDS)")
            }
            Self::Cut(error) => write!(f, "the upstream ended within the response: {error}"),
            Self::Malformed(reason) => f.write_str(reason),
            Self::Idle => f.write_str("the upstream was silent (STREAM_IDLE_TIMEOUT_SECONDS)"),
        }
    }
}

impl Relay {
    /// Follows what came with the head; `unchunk` for a client that does not know chunked. Boxed: it
    /// goes through several hands, and each would hold it.
    ///
    /// # Errors
    /// The beginning of the body is malformed: the client can still be told.
    pub fn new(
        response: Response,
        unchunk: bool,
        idle_timeout: Option<Duration>,
    ) -> Result<Box<Self>, &'static str> {
        let mut relay = Box::new(Self {
            body: Body::new(response.framing, unchunk),
            response,
            excess: false,
            ended: false,
            bulk: false,
            last_read: 0,
            no_pipe: false,
            since_yield: 0,
            idle_timeout,
        });
        let mut received = std::mem::take(&mut relay.response.received);
        relay.follow(&mut received)?;
        relay.response.received = received;
        Ok(relay)
    }

    /// Whether the client knows the end of the body by the end of the connection.
    pub fn is_close_delimited(&self) -> bool {
        self.body.is_close_delimited()
    }

    /// The part of the body that goes out with the head.
    pub fn first(&mut self) -> Buffer {
        std::mem::take(&mut self.response.received)
    }

    /// Relays the rest.
    pub async fn run(
        mut self: Box<Self>,
        mut answering: Answering<'_>,
        left: &mut Left<'_>,
    ) -> Relayed {
        let result = self.forward(&mut answering, left).await;
        self.finish(answering, result).await
    }

    /// Ends a relay whose head could not be sent: the client is gone.
    pub async fn abandon(mut self: Box<Self>) -> (Option<Connection>, Aborted) {
        let complete = self.drain().await;
        (self.reusable(), Aborted::ClientLeft { complete })
    }

    async fn finish(
        mut self: Box<Self>,
        answering: Answering<'_>,
        result: Result<(), Aborted>,
    ) -> Relayed {
        match result {
            Ok(()) => Relayed {
                answered: answering.finish(self.is_close_delimited()),
                conn: self.reusable(),
                result: Ok(()),
            },
            Err(Aborted::ClientLeft { .. }) => {
                let complete = self.drain().await;
                Relayed {
                    answered: answering.break_off(),
                    conn: self.reusable(),
                    result: Err(Aborted::ClientLeft { complete }),
                }
            }
            Err(aborted) => {
                self.response.conn.close();
                Relayed {
                    answered: answering.break_off(),
                    conn: None,
                    result: Err(aborted),
                }
            }
        }
    }

    async fn forward(
        &mut self,
        answering: &mut Answering<'_>,
        left: &mut Left<'_>,
    ) -> Result<(), Aborted> {
        while !self.ended {
            if !self.bulk {
                self.wait(left).await?;
            }
            if self.can_splice() {
                self.splice(answering, left).await?;
                continue;
            }
            let mut buffer = Buffer::for_bytes(2 * self.last_read);
            if self.read(&mut buffer)? {
                self.pass(answering, &mut buffer, left).await?;
            }
            drop(buffer);
            self.breathe(answering, left).await?;
        }
        Ok(())
    }

    /// Waits for upstream's next bytes, holding no buffer, as long as the client stays.
    async fn wait(&mut self, left: &mut Left<'_>) -> Result<(), Aborted> {
        let idle = Deadline::after_if(self.idle_timeout);
        select! {
            // In this order: bytes that are here go out, even to a client that is about to leave.
            biased;
            // An error shows at the read.
            _ = self.response.conn.stream.readable() => Ok(()),
            () = left => Err(Aborted::ClientLeft { complete: false }),
            // What has come while the core was kept from looking is in time.
            () = idle.passed() => match self.response.conn.stream.has_news() {
                true => Ok(()),
                false => Err(Aborted::Idle),
            },
        }
    }

    /// Reads what is there and leaves in `buffer` what goes to the client; `false` where nothing does.
    fn read(&mut self, buffer: &mut Buffer) -> Result<bool, Aborted> {
        match self.response.conn.stream.try_read(buffer) {
            Ok(None) => self.bulk = false,
            Ok(Some(0)) => self.end_of_stream()?,
            Ok(Some(count)) => {
                self.last_read = count;
                self.since_yield += count as u64;
                self.bulk = buffer.spare() == 0;
                self.follow(buffer).map_err(Aborted::Malformed)?;
            }
            Err(error) => return Err(Aborted::Cut(error)),
        }
        Ok(!buffer.is_empty())
    }

    fn follow(&mut self, buffer: &mut Buffer) -> Result<(), &'static str> {
        let followed = self.body.follow(buffer)?;
        self.ended |= followed.ended;
        self.excess |= followed.excess;
        Ok(())
    }

    /// The upstream has closed its side: the end of a close-delimited body, and of no other. Over TLS
    /// it is a vouched one.
    fn end_of_stream(&mut self) -> Result<(), Aborted> {
        let Response { conn, sending, .. } = &self.response;
        let plain = conn.stream.as_plain();
        if plain.is_some_and(|tcp| sending.hides_cut(tcp)) {
            return Err(Aborted::Cut(io::ErrorKind::ConnectionReset.into()));
        }
        match self.response.framing {
            Framing::UntilClose => self.ended = true,
            _ => return Err(Aborted::Cut(io::ErrorKind::UnexpectedEof.into())),
        }
        Ok(())
    }

    async fn pass(
        &mut self,
        answering: &mut Answering<'_>,
        buffer: &mut Buffer,
        left: &mut Left<'_>,
    ) -> Result<(), Aborted> {
        let written = select! {
            biased;
            written = answering.write(buffer) => written,
            // The dropped write leaves the connection good for closing only.
            () = &mut *left => return Err(Aborted::ClientLeft { complete: false }),
        };
        written.map_err(|error| client_error(&error))
    }

    /// Lets others run now and then, and looks whether the client is still there: a stream that
    /// never pauses would not come to it otherwise. What counts is what was read: of framing that is
    /// undone, little is written.
    async fn breathe(
        &mut self,
        answering: &Answering<'_>,
        left: &mut Left<'_>,
    ) -> Result<(), Aborted> {
        if self.since_yield < YIELD_BYTES {
            return Ok(());
        }
        self.since_yield = 0;
        let stall = Deadline::after(answering.stall());
        select! {
            biased;
            () = left => Err(Aborted::ClientLeft { complete: false }),
            yielded = stall.limit(yield_to_others(answering.tcp())) => {
                yielded.map_err(|_| Aborted::ClientStalled)
            }
        }
    }

    /// Follows the response a little further for nobody; whether it came to its end.
    async fn drain(&mut self) -> bool {
        let Some(_place) = DRAINS.with(Taken::one) else {
            return self.ended;
        };
        let deadline = Deadline::after(DRAIN);
        self.since_yield = 0;
        while !self.ended && self.since_yield < DRAIN_BYTES_MAX && !deadline.has_passed() {
            if deadline
                .limit(self.response.conn.stream.readable())
                .await
                .is_err()
            {
                break;
            }
            let mut scrap = Buffer::small();
            if self.read(&mut scrap).is_err() {
                break;
            }
        }
        self.ended
    }

    /// The connection, after a complete exchange that left it clean; closed otherwise.
    fn reusable(self: Box<Self>) -> Option<Connection> {
        let Response {
            conn,
            keeps,
            sending,
            ..
        } = self.response;
        if self.ended && keeps && !self.excess && sending.is_done() {
            return Some(conn);
        }
        conn.close();
        None
    }
}

fn client_error(error: &io::Error) -> Aborted {
    match error.kind() {
        io::ErrorKind::TimedOut => Aborted::ClientStalled,
        _ => Aborted::ClientLeft { complete: false },
    }
}
