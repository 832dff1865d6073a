//! Notices from other threads to a core, and its answers: signals, resolved names, reports. The only
//! way in and out.
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use monoio::io::AsyncReadRent;
use monoio::net::UnixStream;

use crate::net::sleep;
use crate::telemetry::clock::Moment;
use crate::telemetry::report::Report;

/// Between two tries to pass on the wake-up or to hear it, after an error.
const WAKE_PAUSE: Duration = Duration::from_millis(10);
/// Tries to wake a core: it has ended where a second of them fails.
const WAKE_TRIES_MAX: usize = 100;

/// What a core is told.
#[derive(Clone)]
pub enum Notice {
    /// Accept no more, finish what there is.
    Drain,
    /// A name has been looked up, and when that began.
    Resolved(Whose, Resolved, Moment),
    /// Say there how things are.
    Report(Sender<Report>),
}

/// Whose name has been looked up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// That of whom we connect to: the upstream, or the outbound proxy.
    Peer,
    /// The upstream's, where the outbound proxy connects to it and is told an address.
    Target,
}

/// What looking a name up came to.
#[derive(Clone, Debug)]
pub enum Resolved {
    /// At least one address, in the resolver's order.
    Addresses(Arc<[SocketAddr]>),
    /// The name does not exist.
    NoSuchName(Arc<str>),
    /// The resolver failed; another time it may not.
    Failed(Arc<str>),
}

/// The sending end, for any thread. A byte through a socket wakes the core, the notice itself waits in a queue.
pub struct Sender<T> {
    queue: mpsc::Sender<T>,
    wake: Arc<StdUnixStream>,
}

/// The receiving end, to be opened on its core.
pub struct Receiver<T> {
    queue: mpsc::Receiver<T>,
    wake: StdUnixStream,
}

/// The receiving end on its core.
pub struct Mailbox<T> {
    queue: mpsc::Receiver<T>,
    wake: UnixStream,
}

/// A mailbox for one core.
pub fn mailbox<T>() -> io::Result<(Sender<T>, Receiver<T>)> {
    let (sender, receiver) = mpsc::channel();
    let (wake, woken) = StdUnixStream::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    let sender = Sender {
        queue: sender,
        wake: Arc::new(wake),
    };
    let receiver = Receiver {
        queue: receiver,
        wake: woken,
    };
    Ok((sender, receiver))
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            wake: self.wake.clone(),
        }
    }
}

impl<T> Sender<T> {
    /// Leaves a notice. A core that has ended does not hear it.
    #[allow(clippy::disallowed_methods, reason = "who sends is an ordinary thread")]
    pub fn send(&self, notice: T) {
        if self.queue.send(notice).is_err() {
            return;
        }
        for _ in 0..WAKE_TRIES_MAX {
            if self.wakes() {
                return;
            }
            // A signal, or no memory for now: a core that is not woken would not hear it.
            thread::sleep(WAKE_PAUSE);
        }
    }

    /// The same for a core, which never waits: an end that cannot be woken does not hear it. One that was
    /// awake may have heard it already and be gone.
    pub fn send_at_once(&self, notice: T) {
        if self.queue.send(notice).is_ok() {
            self.wakes();
        }
    }

    fn wakes(&self) -> bool {
        match (&*self.wake).write_all(&[1]) {
            Ok(()) => true,
            // A full socket means that the other end has been woken often enough.
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

impl<T> Receiver<T> {
    /// Opens the mailbox on the core that will read it.
    pub fn open(self) -> io::Result<Mailbox<T>> {
        Ok(Mailbox {
            queue: self.queue,
            wake: UnixStream::from_std(self.wake)?,
        })
    }
}

impl<T> Mailbox<T> {
    /// The next notice; `None` when the sender is gone.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            if let Ok(notice) = self.queue.try_recv() {
                return Some(notice);
            }
            let (read, _) = self.wake.read(vec![0; 64]).await;
            match read {
                Ok(0) => return self.queue.try_recv().ok(),
                Ok(_) => (),
                // A signal, or no memory for now: whoever stops listening would never drain.
                Err(_) => sleep(WAKE_PAUSE).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_core_does_not_wait_for_who_is_gone_or_cannot_be_woken() {
        let (sender, Receiver { queue, wake }) = mailbox().expect("a pair of sockets");
        drop(wake); // the queue goes first as a rule, a moment before
        let start = Instant::now();
        sender.send_at_once(1);
        assert!(start.elapsed() < WAKE_PAUSE * WAKE_TRIES_MAX as u32 / 2);
        assert_eq!(queue.try_recv(), Ok(1));
        drop(queue);
        sender.send_at_once(2);
    }
}
