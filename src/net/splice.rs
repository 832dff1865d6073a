//! splice(2) through a small pool of pipes: bytes go from socket to socket inside the kernel.
//!
//! Called directly on non-blocking sockets, with readiness from the runtime: on io_uring each splice
//! operation would occupy a kernel worker thread.
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};

use crate::net::tcp::Tcp;

/// Bytes a pipe is asked to hold: the more it moves at once, the less a byte costs. An unprivileged
/// user has 64 MiB in all (pipe-user-pages-soft), and less for a pipe once that is used up; so only
/// the first pipes of a core, of those open at the same time, are asked to be large.
const PIPE_BYTES: usize = 1 << 20;
const LARGE_PIPES_MAX: usize = 4;
const PIPE_BYTES_BEYOND: usize = 256 << 10;
/// Pipes of a core: clients that stop reading must not make the kernel hold more than 64 MiB for each.
const PIPES_MAX: usize = 256;
/// Pipes kept by a core when nobody uses them.
const PIPES_KEPT_MAX: usize = 16;

thread_local! {
    static KEPT: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
    /// As many of them as nobody has needed since the last [`trim`].
    static UNUSED: Cell<usize> = const { Cell::new(0) };
    static OPEN: Cell<usize> = const { Cell::new(0) };
}

/// Closes half of the pipes that nobody has needed since the last time. To be called now and then.
pub fn trim() {
    KEPT.with_borrow_mut(|kept| {
        kept.drain(..UNUSED.get().div_ceil(2));
        UNUSED.set(kept.len());
    });
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
    bytes: usize,
}

impl Ends {
    fn open() -> io::Result<Self> {
        if OPEN.get() == PIPES_MAX {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let wanted = match OPEN.get() {
            ..LARGE_PIPES_MAX => PIPE_BYTES,
            _ => PIPE_BYTES_BEYOND,
        };
        // A refusal leaves the pipe as it is.
        let _ = fcntl_setpipe_size(&write, wanted);
        let bytes = fcntl_getpipe_size(&write)?;
        OPEN.set(OPEN.get() + 1);
        Ok(Self { read, write, bytes })
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        OPEN.set(OPEN.get() - 1);
    }
}

/// A pipe between two sockets.
pub struct Pipe {
    ends: Option<Ends>,
    held: usize,
}

impl Pipe {
    /// A pipe with nothing in it.
    ///
    /// # Errors
    /// No descriptors left, or too many pipes are open.
    pub fn take() -> io::Result<Self> {
        let kept = KEPT.with_borrow_mut(|kept| {
            let taken = kept.pop();
            UNUSED.set(UNUSED.get().min(kept.len()));
            taken
        });
        let ends = kept.map_or_else(Ends::open, Ok)?;
        Ok(Self {
            ends: Some(ends),
            held: 0,
        })
    }

    /// Bytes in the pipe.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves at most `bytes_max` bytes from `from` into the empty pipe. `None`: nothing is there yet;
    /// `Some(0)`: the peer has closed its side.
    pub fn fill(&mut self, from: &Tcp, bytes_max: u64) -> io::Result<Option<usize>> {
        let Some(ends) = &self.ends else {
            return Ok(None);
        };
        debug_assert_eq!(
            self.held, 0,
            "with bytes in the pipe EAGAIN could mean that it is full"
        );
        let bytes = usize::try_from(bytes_max).map_or(ends.bytes, |max| max.min(ends.bytes));
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        match splice(from, None, &ends.write, None, bytes, flags) {
            Ok(count) => {
                self.held = count;
                Ok(Some(count))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves bytes from the pipe to `to`: how many, or `None` where there is no room.
    pub fn drain(&mut self, to: &Tcp) -> io::Result<Option<usize>> {
        let Some(ends) = &self.ends else {
            return Ok(None);
        };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        match splice(&ends.read, None, to, None, self.held, flags) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                self.held -= count;
                Ok(Some(count))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Pipe {
    /// An empty pipe is kept for the next one; bytes in it would be another client's.
    fn drop(&mut self) {
        let Some(ends) = self.ends.take().filter(|_| self.held == 0) else {
            return;
        };
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < PIPES_KEPT_MAX {
                kept.push(ends);
            }
        });
    }
}
