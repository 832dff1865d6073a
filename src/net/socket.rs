//! A socket of monoio that is read, written and watched at the same time, and what no crate wraps: the
//! only `unsafe` code.
#![allow(
    unsafe_code,
    reason = "monoio wants `&mut` to write, and lends no descriptor; nothing wraps some system calls"
)]
use std::cell::UnsafeCell;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::from_ref;

use monoio::BufResult;
use monoio::buf::IoBuf;
use monoio::io::AsyncWriteRent;
use monoio::net::TcpStream;

/// A socket of this core, connected or listening: monoio has one kind of readiness for both.
pub struct Socket(UnsafeCell<TcpStream>);

impl Socket {
    /// Takes over `socket`, which must be non-blocking.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        #[allow(clippy::disallowed_types, reason = "only carries the descriptor over")]
        let stream = TcpStream::from_std(std::net::TcpStream::from(socket))?;
        Ok(Self(UnsafeCell::new(stream)))
    }

    /// Waits until there is something to read or to accept, or an end, or an error.
    pub async fn readable(&self) -> io::Result<()> {
        self.stream().readable(false).await
    }

    /// Waits until there is room to write.
    pub async fn writable(&self) -> io::Result<()> {
        self.stream().writable(false).await
    }

    /// Writes some of `buf` and gives it back. Where the future is dropped, `buf` stays with the kernel
    /// until the operation ends.
    pub fn write<B: IoBuf>(&self, buf: B) -> impl Future<Output = BufResult<usize, B>> {
        // SAFETY: no other reference to the stream is in use while this one is. It is in use during this
        // call only: `write` clones the descriptor's handle into an operation, which is all that its
        // future holds. Meanwhile no code of ours runs, and a `Socket` stays on its thread: it is not
        // `Sync`. The futures of `readable` and `writable` hold a reference across their waits, but
        // use it only to make their operation, when they are first polled, which is at once.
        let stream = unsafe { &mut *self.0.get() };
        stream.write(buf)
    }

    /// What the kernel tells of a TCP connection, also of one that has ended; fails for other sockets.
    /// What it does not know of, being too old, is 0.
    pub fn tcp_info(&self) -> io::Result<libc::tcp_info> {
        let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: both pointers are to locals that outlive the call, and the kernel writes no more than
        // the `length` bytes that are there.
        let result = unsafe {
            libc::getsockopt(
                self.as_fd().as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        match result {
            // SAFETY: it holds nothing but integers, for which any bytes will do, and has been zeroed.
            0 => Ok(unsafe { info.assume_init() }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn stream(&self) -> &TcpStream {
        // SAFETY: the only `&mut` to the stream is in use during the call in `write` alone, see there.
        unsafe { &*self.0.get() }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns its descriptor, keeps it open, and lives as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.stream().as_raw_fd()) }
    }
}

/// One instruction of a classic packet filter, `struct sock_filter` of the kernel: code, jumps where it is
/// true and where it is false, operand.
pub type Instruction = (u16, u8, u8, u32);

/// Lets `program` say how much of each packet for this socket is kept; 0 throws it away.
pub fn filter(socket: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    attach(socket, libc::SO_ATTACH_FILTER, program)
}

/// Lets `program` say which of the listeners that share a port gets a connection, by its number in the
/// order in which they began to listen. A number that none has leaves the choice to the kernel.
pub fn steer(socket: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    attach(socket, libc::SO_ATTACH_REUSEPORT_CBPF, program)
}

/// Leaves the choice to the kernel again. Fails before Linux 5.3.
pub fn steer_no_more(socket: impl AsFd) -> io::Result<()> {
    set_option(socket, libc::SO_DETACH_REUSEPORT_BPF, &0)
}

fn attach(socket: impl AsFd, option: libc::c_int, program: &[Instruction]) -> io::Result<()> {
    let mut program: Vec<_> = program
        .iter()
        .map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
        .collect();
    let value = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    set_option(socket, option, &value) // copies the program, which lives until here
}

fn set_option<T>(socket: impl AsFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes from a reference, and what it takes for a pointer in
    // there is one, see `attach`, the only caller with any.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor of our own for what `number` stands for, which may be anybody's. Fails where it is not open.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: it has no effect on memory, whatever the number.
    match unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) } {
        // SAFETY: it is new, so nobody else knows it.
        new @ 0.. => Ok(unsafe { OwnedFd::from_raw_fd(new) }),
        _ => Err(io::Error::last_os_error()),
    }
}
