//! One attempt: send a buffered request, wait for the first response byte. The upstream commit.
//!
//! ```text
//!   Replayable --attempt--> Err(Failed)    -- into_request --> Replayable   (may try again)
//!              \----------> Ok(Committed)  -- its response     --> relay    (no way back)
//! ```
//!
//! A request that drew no response byte can be sent again:
//!
//! ```
//! # use codex_reset_proxy::telemetry::trace::Trace;
//! # use codex_reset_proxy::upstream::{attempt::Limits, connection::Upstream, request::Replayable};
//! # async fn f(request: Replayable, upstream: &Upstream, limits: Limits, trace: &Trace) {
//! if let Err(failed) = request.attempt(upstream, false, limits, trace).await {
//!     let _ = failed.into_request().attempt(upstream, true, limits, trace).await;
//! }
//! # }
//! ```
//!
//! One that drew a response byte cannot:
//!
//! ```compile_fail,E0382
//! # use codex_reset_proxy::telemetry::trace::Trace;
//! # use codex_reset_proxy::upstream::{attempt::Limits, connection::Upstream, request::Replayable};
//! # async fn f(request: Replayable, upstream: &Upstream, limits: Limits, trace: &Trace) {
//! if let Ok(committed) = request.attempt(upstream, false, limits, trace).await {
//!     let _ = request.attempt(upstream, true, limits, trace).await; // error: use of moved value
//! }
//! # }
//! ```
//!
//! Nothing outside this module can make a `Failed`, and so get a request back out of an answer:
//!
//! ```compile_fail,E0451
//! # use codex_reset_proxy::telemetry::words::Delivery;
//! # use codex_reset_proxy::upstream::{attempt::Failed, failure::Failure, request::Replayable};
//! # fn f(request: Replayable, delivery: Delivery) {
//! let _ = Failed { failure: Failure::Closed, request, stale: false, delivery }; // error: private
//! # }
//! ```
use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::iter::once;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use crate::net::buffer::Buffer;
use crate::net::catch::caught;
use crate::net::deadline::Deadline;
use crate::net::stream::Stream;
use crate::net::tcp::Tcp;
use crate::net::{JoinHandle, select, spawn};
use crate::telemetry::counters::count;
use crate::telemetry::trace::Trace;
use crate::telemetry::words::{Delivery, Phase};
use crate::upstream::connection::{Connection, Upstream};
use crate::upstream::delivery;
use crate::upstream::failure::Failure;
use crate::upstream::request::Replayable;

/// After a request could not be sent whole: how long its answer, an early 413 perhaps, may still be
/// on its way. It is usually there already, ahead of the reset that ended the sending.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// The limits of one attempt's phases on an established connection.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Sending, without progress.
    pub write: Duration,
    /// From the last byte handed over to the end of the response head; `None` = no limit.
    pub header: Option<Duration>,
    /// The setting that governs it, for messages.
    pub header_setting: &'static str,
}

/// An attempt that drew no response byte, and the request it did not use up.
pub struct Failed {
    failure: Failure,
    request: Replayable,
    stale: bool,
    delivery: Delivery,
}

impl Failed {
    /// Why.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// Whether the connection was a reused one that the upstream had closed: not its failure.
    pub fn was_stale(&self) -> bool {
        self.stale
    }

    /// How far the request came.
    pub fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// Why, when that is all that is left.
    pub fn into_failure(self) -> Failure {
        self.failure
    }

    /// The request, to be attempted again.
    pub fn into_request(self) -> Replayable {
        self.request
    }
}

/// The upstream has answered with at least one byte. The request is gone; only relaying is left.
pub struct Committed {
    /// The connection the answer comes on.
    pub(super) conn: Connection,
    /// The answer so far; at least one byte.
    pub(super) received: Buffer,
    /// Until when the response head has to be complete.
    pub(super) deadline: Deadline,
    /// The limit behind `deadline` and its setting.
    pub(super) limits: Limits,
    /// What has become of the request.
    pub(super) sending: Sending,
}

/// What has become of a request that is being sent. It may be answered before it is all sent, and
/// goes on being sent then.
pub enum Sending {
    /// All handed over.
    Done,
    /// Given up: the connection cannot be used again. Whether that hides a cut.
    Broken(bool),
    /// A task of its own is at it.
    Running(Guard),
}

impl Sending {
    /// Whether the whole request is with the kernel.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Done => true,
            Self::Broken(_) => false,
            Self::Running(guard) => guard.progress.get() == Progress::Done,
        }
    }

    /// Whether what looks like an end to who reads may be none: the kernel tells of a reset of `tcp`
    /// once, to who writes perhaps, and where sending has stalled we have closed it ourselves.
    pub fn hides_cut(&self, tcp: &Tcp) -> bool {
        match self {
            Self::Done => false,
            Self::Broken(reset) => *reset,
            Self::Running(guard) => match guard.progress.get() {
                Progress::Going => tcp.is_broken(),
                progress => progress == Progress::Cut,
            },
        }
    }
}

impl Replayable {
    /// Sends the request once and waits until the upstream answers with at least one byte; `fresh`
    /// on a brand-new connection. `trace` counts the connections it is put on: not one that turns
    /// out to have ended before the first byte.
    ///
    /// Dropping the future closes the connection: the request counts as sent and is gone.
    #[allow(
        clippy::manual_async_fn,
        reason = "an async fn holds its arguments twice"
    )]
    pub fn attempt(
        mut self,
        upstream: &Upstream,
        fresh: bool,
        limits: Limits,
        trace: &Trace,
    ) -> impl Future<Output = Result<Committed, Failed>> {
        async move {
            let conn = match upstream.connection(fresh, self.failed_at, trace).await {
                Ok(conn) => conn,
                Err(failure) => return Err(self.failed(failure, false, Delivery::NotSent)),
            };
            let (sends, handed) = (trace.sends(), conn.stream.tcp().handed());
            trace.connected(conn.reused);
            let sent = self.send(&conn.stream, conn.reused, limits, trace).await;
            if let Ok(Some(1..)) = sent.read {
                if !matches!(&sent.sending, Ok(sending) if sending.is_done()) {
                    count(|core| &core.early_answers);
                }
                return Ok(Committed {
                    conn,
                    received: sent.received,
                    deadline: sent.deadline,
                    limits,
                    sending: sent
                        .sending
                        .unwrap_or_else(|error| Sending::Broken(hides_cut(&error))),
                });
            }
            let delivery = match trace.sends() == sends {
                true => Delivery::NotSent,
                false => {
                    let tcp = conn.stream.tcp();
                    let so_far = (tcp.handed() - handed, self.bytes());
                    delivery::of(tcp, so_far, &sent.read, sent.sending.as_ref().err())
                }
            };
            let failure = Failure::of(sent.read, sent.sending.err(), limits);
            let stale = conn.reused && failure.is_stale();
            if failure.is_silence() {
                upstream.forget_older(trace.began());
            }
            if !stale {
                self.failed_at = Some(conn.addr);
                upstream.avoid(conn.addr, matches!(failure, Failure::HeaderTimeout(..)));
            }
            match delivery {
                Delivery::NotAcked => conn.abort(),
                _ => conn.close(),
            }
            Err(self.failed(failure, stale, delivery))
        }
    }

    /// Reading starts together with sending: an upstream may answer before it has read the whole
    /// request, and that answer commits. Whether a byte came is said by a read alone, the last one
    /// after the deadline has passed: never by a timer, never by a failed write. No read is ever
    /// under way that could take a byte unseen: what is waited for is that there is something to read.
    async fn send(&self, stream: &Rc<Stream>, reused: bool, limits: Limits, trace: &Trace) -> Sent {
        let mut received = Buffer::empty();
        let mut deadline = Deadline::NEVER;
        let (start, guard) = start(self, stream, limits.write, trace);
        // What ends or speaks before it was sent anything is not sent anything any more.
        let begun = Cell::new(!matches!(start, Start::OneBlock));
        let mut readable = pin!(stream.readable());
        let mut write = pin!(async {
            let written = match start {
                Start::OneBlock => {
                    begun.set(true);
                    trace.sent();
                    stream.write(&self.first, limits.write).await
                }
                Start::Ended(result) => result,
                Start::Going(task) => task.await,
            };
            written.inspect(|()| trace.enter(Phase::Header))
        });
        let mut written = None;
        let mut expiry = pin!(deadline.passed());
        let mut lost = pin!(delivery::lost(stream.tcp(), trace.since()));
        let read = loop {
            select! {
                // In this order: a byte that is here beats a failed write and a passed deadline.
                biased;
                _ = &mut readable => match try_read(stream, &mut received) {
                    Ok(None) => readable.set(stream.readable()),
                    read => break read,
                },
                result = &mut write, if written.is_none() => {
                    deadline = Deadline::after_if(match &result {
                        Ok(()) => limits.header,
                        Err(_) => Some(ANSWER_GRACE),
                    });
                    expiry.set(deadline.passed());
                    written = Some(result);
                }
                () = &mut expiry => break try_read(stream, &mut received),
                () = &mut lost, if reused => break given_up(try_read(stream, &mut received)),
            }
        };
        if begun.get() && written.is_none() && !matches!(read, Ok(Some(1..))) {
            // The end may be our own doing: a task that makes no progress in time closes the connection.
            let ended = poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx))).await;
            if let Poll::Ready(Err(error)) = ended
                && error.kind() == io::ErrorKind::TimedOut
            {
                written = Some(Err(error));
            }
        }
        if !matches!(written, Some(Ok(()))) {
            deadline = Deadline::after_if(limits.header); // if answered: before it was all sent
        }
        let sending = match (written, guard) {
            (Some(result), _) => result.map(|()| Sending::Done),
            (None, Some(guard)) => Ok(Sending::Running(guard)),
            // One block: at once, or stalled.
            (None, None) if begun.get() && matches!(read, Ok(Some(1..))) => {
                write.await.map(|()| Sending::Done)
            }
            (None, None) => Ok(Sending::Broken(false)), // nobody is there to read it
        };
        Sent {
            read,
            received,
            deadline,
            sending,
        }
    }

    fn failed(self, failure: Failure, stale: bool, delivery: Delivery) -> Failed {
        Failed {
            failure,
            request: self,
            stale,
            delivery,
        }
    }
}

/// What came of putting a request on a connection.
struct Sent {
    /// The read that ended the wait; `None`: there was nothing when the time was over.
    read: io::Result<Option<usize>>,
    received: Buffer,
    deadline: Deadline,
    sending: io::Result<Sending>,
}

/// Reads what is there: memory is taken when there is something to put into it.
fn try_read(stream: &Stream, received: &mut Buffer) -> io::Result<Option<usize>> {
    *received = Buffer::small();
    stream.try_read(received)
}

/// The last read of a connection that was lost: fails as if TCP itself had given it up.
fn given_up(read: io::Result<Option<usize>>) -> io::Result<Option<usize>> {
    match read {
        Ok(None) => Err(io::ErrorKind::TimedOut.into()),
        read => read,
    }
}

/// Starts to send a request. Of several blocks what the socket takes goes at once, while it is in the
/// processor's cache. The rest is sent by a task of its own, which goes on when the answer begins
/// before it is all sent.
fn start(
    request: &Replayable,
    stream: &Rc<Stream>,
    stall: Duration,
    trace: &Trace,
) -> (Start, Option<Guard>) {
    if request.rest.is_empty() {
        return (Start::OneBlock, None);
    }
    let blocks = once(&request.first).chain(&request.rest);
    let mut blocks: VecDeque<Bytes> = blocks.cloned().collect();
    let begun = stream.try_write(&mut blocks);
    if begun.is_ok() {
        trace.sent();
    }
    if begun.is_err() || blocks.is_empty() {
        return (Start::Ended(begun), None);
    }
    let guard = Guard {
        progress: Rc::new(Cell::new(Progress::Going)),
        stream: stream.clone(),
    };
    let (stream, progress) = (stream.clone(), guard.progress.clone());
    let taken = request.taken.clone();
    let send = async move {
        let _taken = taken;
        for block in blocks {
            let written = stream.write(&block, stall).await;
            if let Err(error) = written {
                if error.kind() == io::ErrorKind::TimedOut {
                    stream.close(); // an answer that has begun ends as well
                }
                progress.set(match hides_cut(&error) {
                    true => Progress::Cut,
                    false => Progress::Failed,
                });
                return Err(error);
            }
        }
        progress.set(Progress::Done);
        Ok(())
    };
    let ended =
        |ended: Result<_, String>| ended.unwrap_or_else(|panic| Err(io::Error::other(panic)));
    let task = spawn(async move { ended(caught(send).await) });
    (Start::Going(task), Some(guard))
}

/// How the sending of a request begins.
enum Start {
    /// It is to be sent in one piece.
    OneBlock,
    /// All of it has gone, or it cannot be sent.
    Ended(io::Result<()>),
    /// A task is at it.
    Going(JoinHandle<io::Result<()>>),
}

/// How far the task that sends a request is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Going,
    Done,
    Failed,
    /// It failed, and who reads finds an end that is none.
    Cut,
}

/// A reset that comes behind an end shows as EPIPE.
fn hides_cut(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::TimedOut
    )
}

/// Ends the task that sends a request when nobody waits for the answer any more: it holds the
/// stream, so dropping the connection would not close it.
pub struct Guard {
    progress: Rc<Cell<Progress>>,
    stream: Rc<Stream>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.progress.get() != Progress::Done {
            // A FIN would queue behind what the upstream does not read, and never be seen.
            self.stream.reset_on_close();
            self.stream.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send,
        shutdown, socketpair,
    };

    use super::*;
    use crate::net::driver;
    use crate::net::quota::{Quota, Taken};
    use crate::telemetry::record::{Ids, Named, Record};

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: Limits = Limits {
        write: SECOND,
        header: Some(SECOND),
        header_setting: "",
    };

    fn pair() -> (Tcp, std::os::fd::OwnedFd) {
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::NONBLOCK);
        let (ours, theirs) = socketpair(family, SocketType::STREAM, flags, None).expect("a pair");
        (Tcp::new(ours).expect("a socket"), theirs)
    }

    fn record() -> Record {
        Record::new(&Ids::default(), Named::new("GET".into(), "/".to_owned()))
    }

    #[test]
    fn a_connection_that_ends_or_speaks_first_is_sent_nothing() {
        driver::run(async {
            for words in [&b""[..], b"HTTP/1.1 503"] {
                let (tcp, theirs) = pair();
                let armed = Deadline::after(Duration::from_millis(5)).limit(tcp.readable());
                assert!(armed.await.is_err(), "the wait is under way");
                match words {
                    b"" => shutdown(&theirs, Shutdown::Write).expect("it is open"),
                    words => drop(send(&theirs, words, SendFlags::NOSIGNAL).expect("room")),
                }
                // The wait has ended when a later one has.
                let (later, end) = pair();
                drop(end);
                later.readable().await.expect("an end");

                let block = Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n");
                let taken = Taken::nothing(&Quota::of_core(0));
                let request = Replayable::new((block, Vec::new(), taken), true);
                let (stream, record) = (Rc::new(Stream::Plain(tcp)), record());
                let sent = request.send(&stream, true, LIMITS, &record.trace).await;
                assert!(matches!(sent.read, Ok(Some(count)) if count == words.len()));
                assert!(matches!(sent.sending, Ok(Sending::Broken(false))));
                let unsent = recv(&theirs, &mut [0; 64], RecvFlags::DONTWAIT);
                assert_eq!(
                    (record.trace.sends(), unsent.map(|(count, _)| count)),
                    (0, Err(Errno::AGAIN))
                );
            }
        });
    }
}
