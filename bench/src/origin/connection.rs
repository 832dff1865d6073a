//! One connection: requests are read and checked, what their target asks for is done.
use std::io;
use std::mem::take;
use std::ops::ControlFlow::{self, Break, Continue};
use std::os::fd::{BorrowedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use monoio::buf::{IoBuf, IoBufMut};
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::time::timeout;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendFlags, Shutdown, sockopt};

use super::Shared;
use super::answer::{PATTERN, write_head};
use super::request::{Body, HEAD_BYTES_MAX, Refusal, Request, head_length};
use super::target::{Framing, Target};

/// Room for a read: the most that a small request with its body takes.
const READ_BYTES_MIN: usize = 16 * 1024;
/// Room for a read of a body that long.
const READ_BYTES_MAX: usize = 256 * 1024;
/// A line of a chunked body: far more than a chunk's size or a trailer field takes.
const LINE_BYTES_MAX: usize = 4096;
const TRAILERS_MAX: usize = 100;
/// How long a peer may go on sending after we have closed our side.
const LINGER: Duration = Duration::from_secs(5);

pub(super) struct Connection<S> {
    pub(super) stream: S,
    /// The stream's socket, below TLS.
    socket: RawFd,
    pub(super) shared: Rc<Shared>,
    input: Input,
    last: Option<(Vec<u8>, Request)>,
    /// Where in the pattern the answer's body begins.
    pub(super) first: u64,
    /// The arrival whose answer has not begun: its ID and number.
    pub(super) unanswered: Option<(String, usize)>,
    /// What is to be written next.
    pub(super) out: Vec<u8>,
    /// `out` is the whole answer to the last head, already written once.
    kept: bool,
}

/// Bytes that were read and not yet used.
struct Input {
    bytes: Vec<u8>,
    start: usize,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The peer is gone already.
    Gone,
    /// In good order: with TLS, close_notify, then FIN.
    Close,
    /// FIN at once.
    Cut,
    /// RST.
    Reset,
}

enum Head {
    None,
    Bad(Refusal),
    Request(Request),
}

impl<S: AsyncReadRent + AsyncWriteRent> Connection<S> {
    /// `socket` is the descriptor that `stream` holds open.
    pub(super) fn new(stream: S, socket: RawFd, shared: Rc<Shared>) -> Self {
        let bytes = Vec::with_capacity(READ_BYTES_MIN);
        Self {
            stream,
            socket,
            shared,
            input: Input { bytes, start: 0 },
            last: None,
            first: 0,
            unanswered: None,
            out: Vec::new(),
            kept: false,
        }
    }

    /// Serves requests until the connection ends.
    pub(super) async fn serve(mut self) {
        loop {
            match self.exchange().await {
                Ok(Continue(())) => {}
                Ok(Break(end)) => return self.end(end).await,
                // The peer is gone, or has sent what is not TLS.
                Err(_) => return,
            }
        }
    }

    async fn exchange(&mut self) -> io::Result<ControlFlow<End>> {
        let request = match self.head().await? {
            Head::None => return Ok(Break(End::Gone)),
            Head::Bad(refusal) => return self.refuse(refusal).await,
            Head::Request(request) => request,
        };
        (self.first, self.unanswered) = (0, None);
        match &request.target {
            Target::Fault(fault) => return self.fault(&request, *fault).await,
            Target::Plan { id, steps } => return self.plan(&request, id, steps).await,
            Target::Bytes { .. } | Target::Events { .. } => {}
        }
        let mut fits = true;
        let check = |offset, piece: &[u8]| fits &= PATTERN.fits(offset, piece);
        if let Err(refusal) = self.body(&request, check).await? {
            return self.refuse(refusal).await;
        }
        if !fits {
            let why = "the request body differs from the pattern";
            let status = "400 Bad Request";
            return self.refuse(Refusal { status, why }).await;
        }
        let mut keep_alive = request.keep_alive;
        match request.target {
            _ if self.kept => self.write_out().await?,
            Target::Bytes { length, framing } => {
                self.kept = self.bytes(length, framing, length, keep_alive).await?;
                keep_alive &= framing != Framing::Close;
            }
            Target::Events {
                count,
                bytes,
                interval,
            } => self.events(count, bytes, interval, keep_alive).await?,
            Target::Fault(_) | Target::Plan { .. } => {}
        }
        Ok(after(keep_alive))
    }

    /// The next head. One that is the same as the last is not decoded again.
    async fn head(&mut self) -> io::Result<Head> {
        loop {
            let pending = self.input.pending();
            if let Some((last, request)) = &self.last
                && pending.starts_with(last)
            {
                let request = request.clone();
                self.input.start += last.len();
                return Ok(Head::Request(request));
            }
            if let Some(length) = head_length(pending)
                && length <= HEAD_BYTES_MAX
            {
                let head = &pending[..length];
                let request = match Request::decode(head) {
                    Ok(request) => request,
                    Err(refusal) => return Ok(Head::Bad(refusal)),
                };
                self.last = Some((head.to_vec(), request.clone()));
                self.kept = false;
                self.input.start += length;
                return Ok(Head::Request(request));
            }
            if pending.len() > HEAD_BYTES_MAX {
                let status = "431 Request Header Fields Too Large";
                let why = "the head does not end";
                return Ok(Head::Bad(Refusal { status, why }));
            }
            let is_between = pending.is_empty();
            match self.read(0).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && is_between => {
                    return Ok(Head::None);
                }
                read => read?,
            }
        }
    }

    /// Reads the request body; `each` sees its pieces, with the offset of each.
    pub(super) async fn body(
        &mut self,
        request: &Request,
        mut each: impl FnMut(u64, &[u8]),
    ) -> io::Result<Result<(), Refusal>> {
        if request.expects_continue && self.input.pending().is_empty() {
            let interim: &'static [u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
            self.stream.write_all(interim).await.0?;
        }
        let mut offset = 0;
        let is_whole = match request.body {
            Body::Length(length) => {
                self.content(length, &mut offset, &mut each).await?;
                true
            }
            Body::Chunked => self.chunked(&mut offset, &mut each).await?,
        };
        let status = "400 Bad Request";
        let why = "the chunked coding is malformed";
        Ok(is_whole.then_some(()).ok_or(Refusal { status, why }))
    }

    /// Reads a body in chunked coding. Whether it is well-formed.
    async fn chunked(
        &mut self,
        offset: &mut u64,
        each: &mut impl FnMut(u64, &[u8]),
    ) -> io::Result<bool> {
        loop {
            let line = self.line().await?.unwrap_or_default();
            match httparse::parse_chunk_size(&line) {
                Ok(httparse::Status::Complete((_, 0))) => break,
                Ok(httparse::Status::Complete((_, size))) => {
                    self.content(size, offset, each).await?
                }
                _ => return Ok(false),
            }
            if self.line().await?.as_deref() != Some(b"\r\n") {
                return Ok(false);
            }
        }
        // The trailer section ends with an empty line.
        for _ in 0..TRAILERS_MAX {
            match self.line().await?.as_deref() {
                Some(b"\r\n") => return Ok(true),
                Some(_) => {}
                None => break,
            }
        }
        Ok(false)
    }

    /// Reads `length` bytes of content.
    async fn content(
        &mut self,
        length: u64,
        offset: &mut u64,
        each: &mut impl FnMut(u64, &[u8]),
    ) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            if self.input.pending().is_empty() {
                self.read(usize::try_from(left).unwrap_or(usize::MAX))
                    .await?;
            }
            let pending = self.input.pending();
            let count = pending
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            each(*offset, &pending[..count]);
            self.input.start += count;
            *offset += count as u64;
            left -= count as u64;
        }
        Ok(())
    }

    /// Reads a line with its CRLF. `None`: it does not end.
    async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let pending = self.input.pending();
            if let Some(end) = pending.windows(2).position(|window| window == b"\r\n") {
                let line = pending[..end + 2].to_vec();
                self.input.start += line.len();
                return Ok(Some(line));
            }
            if pending.len() > LINE_BYTES_MAX {
                return Ok(None);
            }
            self.read(0).await?;
        }
    }

    /// Reads what comes, at least one byte; `wanted` more are known to be on the way.
    async fn read(&mut self, wanted: usize) -> io::Result<()> {
        let bytes = self
            .input
            .with_room(wanted.clamp(READ_BYTES_MIN, READ_BYTES_MAX));
        let filled = bytes.len();
        let (read, bytes) = self.stream.read(bytes.slice_mut(filled..)).await;
        self.input.bytes = bytes.into_inner();
        match read? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Waits until a byte of the next request is there.
    pub(super) async fn next_byte(&mut self) -> io::Result<()> {
        match self.input.pending().is_empty() {
            true => self.read(0).await,
            false => Ok(()),
        }
    }

    /// Reads and forgets until the peer closes its side.
    pub(super) async fn peer_closes(&mut self) {
        loop {
            self.input.start = self.input.bytes.len();
            if self.read(0).await.is_err() {
                return;
            }
        }
    }

    /// Whether the peer has closed its side by now, whatever it sent before.
    fn peer_has_closed(&self) -> bool {
        let mut polled = [PollFd::from_borrowed_fd(self.socket(), PollFlags::RDHUP)];
        matches!(poll(&mut polled, Some(&Timespec::default())), Ok(1..))
    }

    /// Writes all of `out`, and leaves it as it is.
    pub(super) async fn write_out(&mut self) -> io::Result<()> {
        let sent = match self.unanswered.take() {
            Some((id, number)) => self.begin_answer(&id, number),
            None => 0,
        };
        let rest = take(&mut self.out).slice(sent..);
        let (written, rest) = self.stream.write_all(rest).await;
        self.out = rest.into_inner();
        written.map(drop)
    }

    /// Enters that the answer has begun, unless the peer gave up before it could see a byte and may ask
    /// again. How much of `out` was sent.
    fn begin_answer(&self, id: &str, number: usize) -> usize {
        if self.peer_has_closed() {
            return 0;
        }
        self.shared.ledger.is_answered(id, number);
        if self.shared.speaks_tls {
            return 0;
        }
        // At once: the peer may give up until the ring is entered next, which under load takes a while.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::send(self.socket(), &self.out, flags).unwrap_or(0)
    }

    async fn refuse(&mut self, refusal: Refusal) -> io::Result<ControlFlow<End>> {
        let Refusal { status, why } = refusal;
        self.out.clear();
        let (kind, length) = ("text/plain", why.len() as u64);
        write_head(&mut self.out, status, kind, Framing::Length, length, false);
        self.out.extend_from_slice(why.as_bytes());
        self.write_out().await?;
        Ok(Break(End::Close))
    }

    async fn end(mut self, end: End) {
        // None of these fails but where the connection is gone already.
        match end {
            End::Gone => return,
            End::Reset => {
                let _ = sockopt::set_socket_linger(self.socket(), Some(Duration::ZERO));
                return;
            }
            End::Close => drop(self.stream.shutdown().await),
            End::Cut => drop(rustix::net::shutdown(self.socket(), Shutdown::Write)),
        }
        // Closed with bytes unread, the socket would send RST, and the peer might lose the answer.
        let _ = timeout(LINGER, self.peer_closes()).await;
    }

    #[allow(unsafe_code, reason = "monoio-rustls hides the stream below TLS")]
    fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the stream that `self` owns.
        unsafe { BorrowedFd::borrow_raw(self.socket) }
    }
}

/// What follows a complete answer.
pub(super) fn after(keep_alive: bool) -> ControlFlow<End> {
    match keep_alive {
        true => Continue(()),
        false => Break(End::Close),
    }
}

impl Input {
    fn pending(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The bytes with room for `count` more behind them; to be put back.
    fn with_room(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = take(&mut self.bytes);
        bytes.drain(..take(&mut self.start));
        bytes.reserve(count);
        bytes
    }
}
