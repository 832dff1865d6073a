//! Until when something may take.
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use monoio::time::{Instant, Sleep, sleep_until};
use pin_project_lite::pin_project;

/// A point in time, or none where there is no limit.
///
/// Timers tick in milliseconds: a deadline is never early and about one millisecond late.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

/// The deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl Deadline {
    /// No limit.
    pub const NEVER: Self = Self(None);

    /// `limit` from now.
    pub fn after(limit: Duration) -> Self {
        Self(Instant::now().checked_add(limit))
    }

    /// `limit` from now, or never.
    pub fn after_if(limit: Option<Duration>) -> Self {
        limit.map_or(Self::NEVER, Self::after)
    }

    /// What is left, `None` where there is no limit.
    pub fn left(self) -> Option<Duration> {
        self.0
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.0.is_some_and(|at| at <= Instant::now())
    }

    /// Waits for it.
    pub async fn passed(self) {
        match self.0 {
            // Boxed: a timer has 640 bytes, and a task holds the sum of what it may wait for.
            Some(at) => Box::pin(sleep_until(at)).await,
            None => std::future::pending().await,
        }
    }

    /// Awaits `future` as long as there is time. A result that is ready beats a deadline that has
    /// passed. The future is dropped when there is none.
    pub fn limit<F: Future>(self, future: F) -> Limited<F> {
        Limited {
            future,
            at: self.0,
            timer: None,
        }
    }
}

/// Waits for `duration`.
pub async fn sleep(duration: Duration) {
    Deadline::after(duration).passed().await;
}

pin_project! {
    /// A future with a deadline. Its timer is set when the future does not end at once.
    pub struct Limited<F> {
        #[pin]
        future: F,
        at: Option<Instant>,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future> Future for Limited<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let Some(at) = *this.at else {
            return Poll::Pending;
        };
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        timer.as_mut().poll(cx).map(|()| Err(Elapsed))
    }
}
