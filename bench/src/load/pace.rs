//! The open loop's clock: when requests are due, whether a connection is free or not.
//!
//! Timers of the runtime tick in milliseconds, so this is a timerfd of the kernel: microseconds, no
//! thread of its own, and one number read tells how many requests have come due.
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};

use monoio::net::UnixStream;
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::clock;

/// From the start of the clock to the first request.
const LEAD_NS: u64 = 1_000_000;

/// Request `k` is due at `start + k * interval`: those that wait for a connection are a number, not a
/// queue.
pub(super) struct Pace {
    interval: u64,
    start: Cell<u64>,
    due: Cell<u64>,
    taken: Cell<u64>,
    stopped: Cell<bool>,
    /// Connections that wait for a request, longest first, so that all get their turn.
    idle: RefCell<VecDeque<Waker>>,
}

impl Pace {
    /// # Errors
    /// `rate` is none that a timer can keep: less than one a second or more than a million.
    pub(super) fn new(rate: f64) -> io::Result<Self> {
        if !(1.0..=1e6).contains(&rate) {
            let reason = format!("cannot send {rate} requests a second");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        Ok(Self {
            interval: (1e9 / rate).round() as u64,
            start: Cell::new(0),
            due: Cell::new(0),
            taken: Cell::new(0),
            stopped: Cell::new(false),
            idle: RefCell::default(),
        })
    }

    /// Starts the clock. It runs in a task of its own until [`Self::stop`].
    pub(super) fn start(self: &Rc<Self>) -> io::Result<monoio::task::JoinHandle<io::Result<()>>> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        self.start.set(clock() + LEAD_NS);
        let times = Itimerspec {
            it_interval: timespec(self.interval),
            it_value: timespec(self.start.get()),
        };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &times)?;
        Ok(monoio::spawn(self.clone().run(timer)))
    }

    async fn run(self: Rc<Self>, timer: OwnedFd) -> io::Result<()> {
        // monoio polls sockets only, by type; to the kernel any descriptor is as good.
        let polled = std::os::unix::net::UnixStream::from(timer.try_clone()?);
        let polled = UnixStream::from_std(polled)?;
        while !self.stopped.get() {
            polled.readable(false).await?;
            let mut count = [0; 8];
            match rustix::io::read(&timer, &mut count) {
                Ok(_) => self.come_due(u64::from_ne_bytes(count)),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn come_due(&self, count: u64) {
        self.due.set(self.due.get() + count);
        let mut idle = self.idle.borrow_mut();
        for _ in 0..count {
            match idle.pop_front() {
                Some(waker) => waker.wake(),
                None => return,
            }
        }
    }

    /// Waits until a request is due that nobody has taken and returns when it was due; `None` once
    /// the clock is stopped. Those still waiting then are never sent.
    pub(super) async fn next(&self) -> Option<u64> {
        poll_fn(|cx| {
            let next = self.taken.get();
            if self.stopped.get() {
                Poll::Ready(None)
            } else if next < self.due.get() {
                self.taken.set(next + 1);
                Poll::Ready(Some(self.start.get() + next * self.interval))
            } else {
                self.idle.borrow_mut().push_back(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// No more requests. The clock itself ends with its next tick, within a second.
    pub(super) fn stop(&self) {
        self.stopped.set(true);
        self.idle.take().into_iter().for_each(Waker::wake);
    }
}

fn timespec(ns: u64) -> Timespec {
    Timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as _,
    }
}
