//! A TCP connection that may be read, written and watched at the same time, or one of a Unix socket.
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use monoio::buf::IoBuf;
use pin_project_lite::pin_project;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType,
    recv, send, sendmsg, socket_with, sockopt,
};

use crate::net::buffer::Buffer;
use crate::net::deadline::{Deadline, sleep};
use crate::net::driver::yield_on_epoll;
use crate::net::socket::Socket;

/// Silence after which a peer is asked whether it is still there, and how it may fail to say so:
/// dead peers and forgotten NAT entries show after 60 seconds.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// After a wait that failed.
const ERROR_PAUSE: Duration = Duration::from_millis(1);

/// From so many bytes on it pays to write them at once.
const AT_ONCE_BYTES_MIN: usize = 32 << 10;
/// Blocks written by one call: 1 MiB of large ones, so that no core is kept from others for long.
const BLOCKS_AT_ONCE_MAX: usize = 16;

/// Work for a peer that never has to be waited for before other tasks get their turn: a millisecond.
const UNPAUSED_BYTES_MAX: usize = 1 << 20;

/// A connected socket of this core. Where it is none of TCP, nothing is known of what has left it, and it
/// cannot be reset.
pub struct Tcp {
    socket: Rc<Socket>,
    /// The operation behind [`Self::readable`], boxed once for a connection.
    readable: RefCell<Pin<Box<dyn Future<Output = io::Result<()>>>>>,
    /// Work since there was last a wait for something to read.
    unpaused: Cell<usize>,
    handed: Cell<u64>,
}

/// What has become of the bytes that the kernel has taken.
pub struct Outgoing {
    /// So many have not left this machine yet. A FIN of ours counts as one.
    pub unsent: u32,
    /// So many segments have left and are not acknowledged.
    pub unacked: u32,
    /// So often in a row the oldest ones have been sent anew, without any acknowledgement of them.
    pub repeats: u8,
    /// So often in a row the peer was asked whether it is there and takes more, without an answer.
    pub probes: u8,
    /// The age of the last that was heard of the peer, by a clock that may tick in hundredths of a second.
    pub silence: Duration,
}

impl Tcp {
    /// Connects to `addr`. Small writes leave at once; dead peers are found by keep-alive probes,
    /// and after `user_timeout` without an acknowledgement.
    ///
    /// Dropping the future gives up and closes the socket.
    pub async fn connect(addr: SocketAddr, user_timeout: Duration) -> io::Result<Self> {
        // Not by monoio, which loses the descriptor where epoll(7) takes no more of them.
        let socket = socket(addr)?;
        set_options(&socket, Some(user_timeout))?;
        match rustix::net::connect(&socket, &addr) {
            Ok(()) | Err(Errno::INPROGRESS) => (),
            Err(error) => return Err(error.into()),
        }
        let tcp = Self::new(socket)?;
        tcp.writable().await?;
        sockopt::socket_error(&tcp)??;
        Ok(tcp)
    }

    /// Takes over a socket, which must be non-blocking.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = Rc::new(Socket::new(socket)?);
        let watched = socket.clone();
        let make = move || {
            let socket = watched.clone();
            async move { socket.readable().await }
        };
        Ok(Self {
            socket,
            readable: RefCell::new(Box::pin(Again { make, armed: None })),
            unpaused: Cell::new(0),
            handed: Cell::new(0),
        })
    }

    /// How many bytes the kernel has ever taken, as far as the writes have ended.
    pub fn handed(&self) -> u64 {
        self.handed.get()
    }

    fn hand(&self, count: usize) {
        self.handed.set(self.handed.get() + count as u64);
    }

    /// What has become of them, as far as this end can know. It can still be told after an end of either
    /// side or a reset.
    pub fn outgoing(&self) -> io::Result<Outgoing> {
        let info = self.socket.tcp_info()?;
        // What brings data and acknowledges nothing new is no acknowledgement to the kernel.
        let silence_millis = info.tcpi_last_ack_recv.min(info.tcpi_last_data_recv);
        Ok(Outgoing {
            unsent: info.tcpi_notsent_bytes,
            unacked: info.tcpi_unacked,
            repeats: info.tcpi_retransmits,
            probes: info.tcpi_probes,
            silence: Duration::from_millis(silence_millis.into()),
        })
    }

    /// Waits until there are bytes to read, the peer has closed its side, or the connection is
    /// broken. It may turn out that there is nothing.
    ///
    /// The operation behind it outlives who waits: it is one operation that sees a client leave during
    /// an exchange and its next request come after it. One task at a time: the last one to wait is woken.
    pub async fn readable(&self) -> io::Result<()> {
        let poll_once = |cx: &mut Context<'_>| {
            let ready = self.readable.borrow_mut().as_mut().poll(cx);
            if ready.is_pending() {
                self.unpaused.set(0); // others run now
            }
            ready
        };
        waited(|| poll_fn(poll_once)).await
    }

    /// Counts work done for this peer, in bytes read or what costs as much. `true`: this was all
    /// without a wait, and it is time to let others run.
    pub fn worked(&self, bytes: usize) -> bool {
        self.unpaused.set(self.unpaused.get() + bytes);
        self.unpaused.get() >= UNPAUSED_BYTES_MAX
    }

    /// Lets others run where it is time.
    pub async fn breathe(&self) {
        if self.unpaused.get() >= UNPAUSED_BYTES_MAX {
            self.unpaused.set(0);
            yield_on_epoll().await;
        }
    }

    /// Whether nothing has arrived: neither a byte nor an end nor an error.
    pub fn is_quiet(&self) -> bool {
        let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(recv(self, &mut [0], peek), Err(Errno::AGAIN))
    }

    /// Waits until there is room to write.
    pub async fn writable(&self) -> io::Result<()> {
        waited(|| self.socket.writable()).await
    }

    /// Reads what is there into the spare room of `into`, which must not be nothing. `None`: nothing
    /// is there yet; `Some(0)`: the peer has closed its side.
    pub fn try_read(&self, into: &mut Buffer) -> io::Result<Option<usize>> {
        debug_assert!(into.spare() > 0, "a read into no room looks like the end");
        let spare = rustix::buffer::spare_capacity(into.as_vec());
        match recv(self, spare, RecvFlags::DONTWAIT) {
            Ok((count, _)) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Appends what is there to `seen`, `max` bytes at most, and leaves it there; says what `try_read`
    /// would.
    pub fn peek(&self, seen: &mut Vec<u8>, max: usize) -> io::Result<Option<usize>> {
        let (start, flags) = (seen.len(), RecvFlags::PEEK | RecvFlags::DONTWAIT);
        seen.resize(start + max, 0);
        let looked = recv(self, &mut seen[start..], flags);
        seen.truncate(start + looked.map_or(0, |(count, _)| count));
        match looked {
            Ok((count, _)) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes away `count` bytes that a peek has seen.
    pub fn skip(&self, count: usize) -> io::Result<()> {
        let (taken, _) = recv(self, &mut vec![0; count], RecvFlags::DONTWAIT)?;
        debug_assert_eq!(taken, count, "they are there, and nobody else takes them");
        Ok(())
    }

    /// Writes of `blocks` what the socket takes now, 16 at most, and takes it off.
    pub fn try_write(&self, blocks: &mut VecDeque<Bytes>) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); BLOCKS_AT_ONCE_MAX];
        for (slice, block) in slices.iter_mut().zip(&*blocks) {
            *slice = IoSlice::new(block);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut nothing_else = SendAncillaryBuffer::default();
        let mut sent = match sendmsg(self, &slices, &mut nothing_else, flags) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        self.hand(sent);
        while let Some(block) = blocks.front_mut() {
            if sent < block.len() {
                block.advance(sent);
                break;
            }
            sent -= block.len();
            blocks.pop_front();
        }
        Ok(())
    }

    /// Writes all of `block` and gives it back. Fails with `TimedOut` where `stall` passes without any
    /// byte taken.
    pub fn write(&self, block: Bytes, stall: Duration) -> impl Future<Output = io::Result<Bytes>> {
        self.write_owned(block, 0, stall)
    }

    /// Writes all bytes held by `buffer` and leaves it empty, its memory still its own.
    ///
    /// A few bytes leave together with those of other connections when the core has nothing else to do.
    /// Many go at once as far as the socket takes them, while they are in the processor's cache.
    pub async fn write_buffer(&self, buffer: &mut Buffer, stall: Duration) -> io::Result<()> {
        if buffer.len() >= AT_ONCE_BYTES_MIN {
            match send(self, buffer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.hand(count);
                    buffer.consume(count);
                }
                Err(Errno::AGAIN | Errno::INTR) => (),
                Err(error) => return Err(error.into()),
            }
        }
        let (bytes, start) = buffer.take();
        let mut bytes = self.write_owned(bytes, start, stall).await?;
        bytes.clear();
        buffer.restore(bytes, 0);
        Ok(())
    }

    #[allow(
        clippy::manual_async_fn,
        reason = "an async fn holds its arguments twice"
    )]
    fn write_owned<B: IoBuf>(
        &self,
        mut buf: B,
        mut sent: usize,
        stall: Duration,
    ) -> impl Future<Output = io::Result<B>> {
        async move {
            let length = buf.bytes_init();
            while sent < length {
                let write = self.socket.write(buf.slice(sent..length));
                let (written, slice) = Deadline::after(stall)
                    .limit(write)
                    .await
                    .map_err(|_| io::ErrorKind::TimedOut)?;
                buf = slice.into_inner();
                match written? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    count => {
                        self.hand(count);
                        sent += count;
                    }
                }
            }
            Ok(buf)
        }
    }

    /// Whether the peer has closed its side or the connection is broken, bytes still unread or not.
    pub fn has_hung_up(&self) -> bool {
        self.is_now(PollFlags::RDHUP)
    }

    /// Whether there is something to read, an end or an error included. Unlike a peek it leaves the
    /// error in place, which the kernel tells once.
    pub fn has_news(&self) -> bool {
        self.is_now(PollFlags::IN)
    }

    /// Whether nothing can go either way any more: not after a mere FIN.
    pub fn is_broken(&self) -> bool {
        self.is_now(PollFlags::HUP)
    }

    /// Whether the connection was reset or has failed, and nobody has been told yet.
    pub fn has_failed(&self) -> bool {
        self.events(PollFlags::empty()).contains(PollFlags::ERR)
    }

    fn is_now(&self, what: PollFlags) -> bool {
        !self.events(what).is_empty()
    }

    /// Which of `what` there are now, and of what is told unasked.
    fn events(&self, what: PollFlags) -> PollFlags {
        let mut fds = [PollFd::new(self, what)];
        match retry_on_intr(|| poll(&mut fds, Some(&Timespec::default()))) {
            Ok(_) => fds[0].revents(),
            Err(_) => PollFlags::ERR,
        }
    }

    /// Sends FIN: the peer sees the end, and may go on sending.
    pub fn close_write(&self) {
        // Fails only where the connection is gone already.
        let _ = rustix::net::shutdown(self, Shutdown::Write);
    }

    /// Ends both directions now, also under an operation that still holds the socket.
    pub fn close_both(&self) {
        let _ = rustix::net::shutdown(self, Shutdown::Both);
    }

    /// Ends the connection with a reset now: what has not left this machine never will. Closing it, the
    /// kernel would go on sending for minutes.
    pub fn abort(&self) {
        if rustix::net::connect_unspec(self).is_err() {
            self.close_both(); // not TCP, or nothing to end
        }
    }

    /// Makes closing send RST instead of FIN.
    pub fn reset_on_close(&self) {
        let _ = sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }

    /// Makes it send FIN again.
    pub fn finish_on_close(&self) {
        let _ = sockopt::set_socket_linger(self, None);
    }
}

impl AsFd for Tcp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

pin_project! {
    /// A future that is made anew when it is polled after its end.
    struct Again<M, F> {
        make: M,
        #[pin]
        armed: Option<F>,
    }
}

impl<M: Fn() -> F, F: Future> Future for Again<M, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        loop {
            if let Some(armed) = this.armed.as_mut().as_pin_mut() {
                let output = ready!(armed.poll(cx));
                this.armed.set(None);
                return Poll::Ready(output);
            }
            this.armed.set(Some((this.make)()));
        }
    }
}

/// Waits again after a signal. Another error is the machine's and says nothing of the connection: who
/// waits again must not keep the core by it.
pub(super) async fn waited<F: Future<Output = io::Result<()>>>(
    wait: impl Fn() -> F,
) -> io::Result<()> {
    while let Err(error) = wait().await {
        sleep(ERROR_PAUSE).await;
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}

/// A socket for `addr`, or for a peer there; splice(2) on it returns instead of waiting only where it
/// is non-blocking itself.
pub fn socket(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = match addr {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

/// Options of a connection; set on a listener, its connections inherit them.
pub fn set_options(socket: impl AsFd, user_timeout: Option<Duration>) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    if let Some(limit) = user_timeout {
        let millis = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(&socket, millis)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::net::socketpair;

    use super::*;
    use crate::net::driver::run;

    /// A connection, and its other end. A socket is a socket: these need no address.
    fn pair() -> (Tcp, OwnedFd) {
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::NONBLOCK);
        let (ours, theirs) = socketpair(family, SocketType::STREAM, flags, None).expect("a pair");
        (Tcp::new(ours).expect("a socket"), theirs)
    }

    #[test]
    fn blocks_leave_in_order_as_far_as_the_socket_takes_them() {
        run(async {
            let (tcp, theirs) = pair();
            let mut blocks: VecDeque<Bytes> = (0..40_u8)
                .map(|number| Bytes::from(vec![number; usize::from(number % 7) * 9_000]))
                .collect();
            let expected: Vec<u8> = blocks.iter().flatten().copied().collect();
            let (mut received, mut piece, mut partly) = (Vec::new(), vec![0; 1 << 20], false);
            while received.len() < expected.len() {
                let before = blocks.iter().map(Bytes::len).sum::<usize>();
                tcp.try_write(&mut blocks).expect("the other end is there");
                partly |= !blocks.is_empty() && before > 0;
                while let Ok((count, _)) = recv(&theirs, &mut piece[..], RecvFlags::DONTWAIT) {
                    received.extend_from_slice(&piece[..count]);
                }
            }
            assert!(received == expected && blocks.is_empty() && partly);
            drop(theirs);
            blocks.push_back(Bytes::from_static(b"x"));
            assert!(tcp.try_write(&mut blocks).is_err(), "nobody takes it");
        });
    }

    #[test]
    fn a_wait_that_nobody_ended_serves_the_next_who_waits() {
        run(async {
            let (tcp, theirs) = pair();
            let wait = Deadline::after(Duration::from_millis(5)).limit(tcp.readable());
            assert!(wait.await.is_err() && tcp.is_quiet());
            for byte in [b"a", b"b"] {
                send(&theirs, byte, SendFlags::NOSIGNAL).expect("room");
                tcp.readable().await.expect("a byte is there");
                assert!(!tcp.is_quiet());
                let mut buffer = Buffer::small();
                assert_eq!(tcp.try_read(&mut buffer).expect("a byte"), Some(1));
                assert!(buffer[..] == byte[..] && tcp.is_quiet());
            }
            drop(theirs);
            tcp.readable().await.expect("an end is something to read");
            assert!(!tcp.is_quiet());
        });
    }
}
