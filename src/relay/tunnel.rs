//! Both directions at once of a connection that has switched protocols: bytes, of which nothing is
//! known but when a side has ended.
use std::cell::Cell;
use std::fmt;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::time::Duration;

use crate::downstream::reply::{Answered, Answering};
use crate::net::buffer::Buffer;
use crate::net::deadline::Deadline;
use crate::net::driver::yield_to_others;
use crate::net::splice::Pipe;
use crate::net::stream::Stream;
use crate::net::tcp::Tcp;
use crate::net::{select, sleep};
use crate::relay::YIELD_BYTES;
use crate::telemetry::clock::Moment;
use crate::telemetry::counters::add;
use crate::upstream::connection::Connection;

/// How long a tunnel may rest of which one side has said that it sends nothing more. The other may
/// have gone without a word.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(300);

/// How long, once a side takes no more bytes, what it has said is still passed on: it may have refused
/// them with a word and closed.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How often, while one side takes no bytes, the other is looked at: it may have broken off.
const LOOK: Duration = Duration::from_millis(50);

/// How long either side of a tunnel may do nothing.
pub struct Limits {
    /// No byte either way; `None` = no limit.
    pub idle: Option<Duration>,
    /// The upstream takes no byte. The client's limit is its own.
    pub upstream_write: Duration,
}

/// How a tunnel ended.
pub struct Tunnelled {
    /// The client's side.
    pub answered: Answered,
    /// Bytes that the upstream was sent.
    pub up_bytes: u64,
    /// Why.
    pub end: End,
}

/// Why a tunnel ended.
pub enum End {
    /// This side closed first.
    Closed(Side),
    /// This side broke the connection, or took nothing for too long.
    Broken(Side, io::Error),
    /// `STREAM_IDLE_TIMEOUT_SECONDS`.
    Idle,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Client,
    /// The upstream's.
    Upstream,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(side) => write!(f, "closed by the {side}"),
            Self::Broken(side, error) if error.kind() == io::ErrorKind::TimedOut => {
                write!(f, "the {side} took no bytes")
            }
            Self::Broken(side, error) => write!(f, "broken by the {side}: {error}"),
            Self::Idle => f.write_str("no bytes either way (STREAM_IDLE_TIMEOUT_SECONDS)"),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
        })
    }
}

/// Moves bytes both ways until both sides have closed or one has broken off. `early` is what the
/// client has sent already.
pub async fn tunnel(
    conn: Connection,
    mut answering: Answering<'_>,
    early: Buffer,
    limits: Limits,
) -> Tunnelled {
    let client = Socket::Client(answering.tcp());
    let upstream = Socket::Upstream(&conn.stream);
    let moved = Cell::new(Moment::now());
    let up = Flow::new(client, upstream, limits.upstream_write, &moved);
    let down = Flow::new(upstream, client, answering.stall(), &moved);
    let mut going_up = pin!(up.run(early));
    let mut going_down = pin!(down.run(Buffer::empty()));
    let first = select! {
        biased; // no order is better: each holds the other up at most for its yield
        ended = &mut going_up => Some((Side::Client, ended)),
        ended = &mut going_down => Some((Side::Upstream, ended)),
        () = idle(&moved, limits.idle) => None,
    };
    let half_closed = limits.idle.unwrap_or(HALF_CLOSED_IDLE);
    let half_closed = Some(half_closed.min(HALF_CLOSED_IDLE));
    let (end, clean) = match first {
        None => (End::Idle, false),
        Some((side, Err((broke, error)))) => {
            let last_words = Deadline::after(LAST_WORDS);
            let _ = match side {
                _ if broke == side => Ok(Ok(())),
                Side::Client => last_words.limit(&mut going_down).await,
                Side::Upstream => last_words.limit(&mut going_up).await,
            };
            (End::Broken(broke, error), false)
        }
        // The other side may go on sending.
        Some((side, Ok(()))) => {
            let rest = select! {
                biased;
                ended = &mut going_up, if side != Side::Client => ended,
                ended = &mut going_down, if side != Side::Upstream => ended,
                () = idle(&moved, half_closed) => Err((side, io::ErrorKind::TimedOut.into())),
            };
            match rest {
                Ok(()) => (End::Closed(side), true),
                // It has closed for good.
                Err((broke, _)) if broke == side => (End::Closed(side), false),
                Err((broke, error)) => (End::Broken(broke, error), false),
            }
        }
    };
    answering.count(down.bytes.get());
    let up_bytes = up.bytes.get();
    if !clean {
        conn.stream.reset_on_close();
        answering.tcp().reset_on_close();
    }
    conn.stream.close();
    let answered = match clean {
        true => answering.finish(true),
        false => answering.break_off(),
    };
    Tunnelled {
        // Nobody is left to be heard out.
        answered: Answered {
            lingers: false,
            ..answered
        },
        up_bytes,
        end,
    }
}

/// Ends when nothing has moved for `limit`.
async fn idle(moved: &Cell<Moment>, limit: Option<Duration>) {
    let Some(limit) = limit else {
        return pending().await;
    };
    while let Some(left) = limit.checked_sub(moved.get().elapsed()) {
        sleep(left.max(Duration::from_millis(1))).await;
    }
}

/// A side's socket, with what both kinds can do.
#[derive(Clone, Copy)]
enum Socket<'t> {
    Client(&'t Tcp),
    Upstream(&'t Stream),
}

impl Socket<'_> {
    fn side(self) -> Side {
        match self {
            Self::Client(_) => Side::Client,
            Self::Upstream(_) => Side::Upstream,
        }
    }

    async fn readable(self) -> io::Result<()> {
        match self {
            Self::Client(tcp) => tcp.readable().await,
            Self::Upstream(stream) => stream.readable().await,
        }
    }

    /// As [`Stream::try_read`], and a TLS stream that ends without a word has ended: the protocol
    /// inside, which is WebSocket, says itself whether it came to its end.
    fn try_read(self, into: &mut Buffer) -> io::Result<Option<usize>> {
        let read = match self {
            Self::Client(tcp) => tcp.try_read(into),
            Self::Upstream(stream) => stream.try_read(into),
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(0)),
            read => read,
        }
    }

    async fn write(self, buffer: &mut Buffer, stall: Duration) -> io::Result<()> {
        match self {
            Self::Client(tcp) => tcp.write_buffer(buffer, stall).await,
            Self::Upstream(stream) => stream.write_buffer(buffer, stall).await,
        }
    }

    async fn close_write(self, stall: Duration) -> io::Result<()> {
        match self {
            Self::Client(tcp) => tcp.close_write(),
            Self::Upstream(stream) => return stream.close_write(stall).await,
        }
        Ok(())
    }

    fn tcp(&self) -> &Tcp {
        match self {
            Self::Client(tcp) => tcp,
            Self::Upstream(stream) => stream.tcp(),
        }
    }

    fn as_plain(&self) -> Option<&Tcp> {
        match self {
            Self::Client(tcp) => Some(tcp),
            Self::Upstream(stream) => stream.as_plain(),
        }
    }
}

/// One direction.
struct Flow<'t> {
    from: Socket<'t>,
    to: Socket<'t>,
    /// How long `to` may take no byte.
    stall: Duration,
    /// When something last moved, either way; an end is something.
    moved: &'t Cell<Moment>,
    bytes: Cell<u64>,
    since_yield: Cell<u64>,
}

/// What a direction ended with: the side that broke it, and how.
type Ended = Result<(), (Side, io::Error)>;

impl<'t> Flow<'t> {
    fn new(from: Socket<'t>, to: Socket<'t>, stall: Duration, moved: &'t Cell<Moment>) -> Self {
        Self {
            from,
            to,
            stall,
            moved,
            bytes: Cell::new(0),
            since_yield: Cell::new(0),
        }
    }

    /// Moves `first` and what `from` sends, until it sends no more: then `to` is told.
    async fn run(&self, mut first: Buffer) -> Ended {
        let (from, to) = (self.from.side(), self.to.side());
        if !first.is_empty() {
            self.pass(&mut first).await?;
        }
        drop(first);
        let (mut last_read, mut no_pipe) = (0, false);
        loop {
            let _ = self.from.readable().await; // an error shows at the read
            let mut buffer = Buffer::for_bytes(2 * last_read);
            match self
                .from
                .try_read(&mut buffer)
                .map_err(|error| (from, error))?
            {
                None => continue,
                Some(0) => break,
                Some(count) => last_read = count,
            }
            let bulk = buffer.spare() == 0;
            self.pass(&mut buffer).await?;
            drop(buffer);
            if let (Some(from), Some(to)) = (self.from.as_plain(), self.to.as_plain())
                && bulk
                && !no_pipe
            {
                match Pipe::take() {
                    Ok(pipe) => self.splice(pipe, from, to).await?,
                    Err(_) => no_pipe = true, // the other way needs none
                }
            }
        }
        let closed = self.to.close_write(self.stall).await;
        self.moved.set(Moment::now()); // who is told of an end has time to answer it
        closed.map_err(|error| (to, error))
    }

    async fn pass(&self, buffer: &mut Buffer) -> Ended {
        let count = buffer.len() as u64;
        let written = self.watched(self.to.write(buffer, self.stall)).await?;
        written.map_err(|error| (self.to.side(), error))?;
        self.moved(count).await
    }

    /// Waits for `to`, as long as `from`, which nobody reads meanwhile, does not break off. A dropped
    /// write leaves the connection good for closing only.
    async fn watched<T>(&self, wait: impl Future<Output = T>) -> Result<T, (Side, io::Error)> {
        let breaks = async {
            while !self.from.tcp().has_failed() {
                sleep(LOOK).await;
            }
        };
        select! {
            biased;
            ended = wait => Ok(ended),
            () = breaks => Err((self.from.side(), io::ErrorKind::ConnectionReset.into())),
        }
    }

    /// Moves what is there without looking at it. An end is left for the next read.
    async fn splice(&self, mut pipe: Pipe, from: &Tcp, to: &Tcp) -> Ended {
        let read = |error| (self.from.side(), error);
        let written = |error| (self.to.side(), error);
        while let Some(count @ 1..) = pipe.fill(from, u64::MAX).map_err(read)? {
            while pipe.held() > 0 {
                if pipe.drain(to).map_err(written)?.is_none() {
                    let room = Deadline::after(self.stall).limit(to.writable());
                    let room = self.watched(room).await?;
                    room.map_err(|_| written(io::ErrorKind::TimedOut.into()))?
                        .map_err(written)?;
                }
            }
            if self.to.side() == Side::Client {
                add(count as u64, |core| &core.spliced_bytes);
            }
            self.moved(count as u64).await?;
        }
        Ok(())
    }

    /// Counts, and lets others run now and then.
    async fn moved(&self, count: u64) -> Ended {
        self.moved.set(Moment::now());
        self.bytes.set(self.bytes.get() + count);
        add(count, |core| match self.to.side() {
            Side::Client => &core.response_bytes,
            Side::Upstream => &core.request_bytes,
        });
        self.since_yield.set(self.since_yield.get() + count);
        if self.since_yield.get() >= YIELD_BYTES {
            self.since_yield.set(0);
            let room = Deadline::after(self.stall).limit(yield_to_others(self.to.tcp()));
            let room = self.watched(room).await?;
            room.map_err(|_| (self.to.side(), io::ErrorKind::TimedOut.into()))?;
        }
        Ok(())
    }
}
