//! Connections of the load generator. None has a timer of its own: each says in its slot when it
//! last got on, and one watch over all slots ends those that do not.
use std::cell::{Cell, UnsafeCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;

use bytes::{Buf, Bytes};
use monoio::BufResult;
use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRent};
use monoio::net::TcpStream;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, Shutdown, SocketFlags, SocketType, sockopt};

use super::clock;

/// What the watch knows of one connection at a time.
#[derive(Default)]
pub(super) struct Slot {
    fd: Cell<Option<RawFd>>,
    /// When it last got on; `None` while nothing is expected of the peer.
    progress: Cell<Option<u64>>,
    overdue: Cell<bool>,
}

impl Slot {
    /// From now on the peer is expected to do something, or it has just done so.
    pub(super) fn progress(&self, now: u64) {
        self.progress.set(Some(now));
    }

    /// Nothing is expected of the peer.
    pub(super) fn rest(&self) {
        self.progress.set(None);
    }

    /// Ends the connection when it has not got on since `since`.
    pub(super) fn watch(&self, since: u64) {
        if self.progress.get().is_some_and(|at| at < since) {
            self.overdue.set(true);
            self.rest();
            self.hang_up();
        }
    }

    /// Whether the watch ended the connection.
    pub(super) fn is_overdue(&self) -> bool {
        self.overdue.get()
    }

    /// Whether the watch ended the last connection; asked once.
    pub(super) fn take_overdue(&self) -> bool {
        self.overdue.take()
    }

    /// Ends whatever operation waits on the connection.
    #[allow(unsafe_code, reason = "monoio's stream implements AsRawFd only")]
    pub(super) fn hang_up(&self) {
        if let Some(fd) = self.fd.get() {
            // SAFETY: `Socket` clears the slot before its stream closes the descriptor.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            // Fails only where the connection is gone already.
            let _ = rustix::net::shutdown(fd, Shutdown::Both);
        }
    }
}

/// A connection, perhaps still being made: the first operation waits for that.
pub(super) struct Socket {
    stream: UnsafeCell<TcpStream>,
    slot: Rc<Slot>,
}

impl Socket {
    pub(super) fn connect(target: SocketAddr, slot: Rc<Slot>) -> io::Result<Self> {
        let family = match target {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match rustix::net::connect(&socket, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let stream = TcpStream::from_std(std::net::TcpStream::from(socket))?;
        slot.fd.set(Some(stream.as_raw_fd()));
        slot.progress(clock());
        Ok(Self {
            stream: UnsafeCell::new(stream),
            slot,
        })
    }

    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Hands a write to the ring at once, before the future is awaited. It may write a part only.
    pub(super) fn send(&self, bytes: Bytes) -> impl Future<Output = BufResult<usize, Bytes>> + '_ {
        self.stream().write(bytes)
    }

    /// Writes all of `bytes`.
    pub(super) async fn send_all(&self, mut bytes: Bytes) -> io::Result<()> {
        while bytes.has_remaining() {
            let (written, mut rest) = self.send(bytes).await;
            match written? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => rest.advance(count),
            }
            self.slot.progress(clock());
            bytes = rest;
        }
        Ok(())
    }

    /// Reads into the room behind what `buf` holds, which must not be nothing.
    pub(super) async fn read(&self, buf: &mut Vec<u8>) -> io::Result<usize> {
        let bytes = std::mem::take(buf);
        let held = bytes.len();
        let (read, slice) = self.stream().read(bytes.slice_mut(held..)).await;
        *buf = slice.into_inner();
        read
    }

    /// Waits until a read finds something.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.stream().readable(false).await
    }

    /// Reads what is there; `None` where nothing is.
    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::net::recv(self, into, RecvFlags::DONTWAIT) {
            Ok((_, count)) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    #[allow(unsafe_code, reason = "a read and a write are under way at once")]
    #[allow(clippy::mut_from_ref, reason = "the same")]
    fn stream(&self) -> &mut TcpStream {
        // SAFETY: `Socket` is not `Sync`, so all calls come from one thread. monoio's read, write
        // and poll only clone the stream's descriptor handle before they suspend and never change
        // the stream: monoio states the same by `unsafe impl Split for TcpStream`.
        unsafe { &mut *self.stream.get() }
    }
}

impl AsFd for Socket {
    #[allow(unsafe_code, reason = "monoio's stream implements AsRawFd only")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the stream, which `self` owns.
        unsafe { BorrowedFd::borrow_raw(self.stream().as_raw_fd()) }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.slot.fd.set(None);
        self.slot.rest();
    }
}
