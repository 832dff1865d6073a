//! A panic ends its task, not its core: monoio does not catch.
use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

/// Awaits `future`; a panic in it becomes its message. The future is boxed: held by value it would
/// be held twice, as an argument and pinned.
///
/// The state that a panic may leave half changed is the task's own and is dropped with it; what
/// tasks share on a core is never borrowed while code that can panic runs.
pub fn caught<T>(future: impl Future<Output = T>) -> impl Future<Output = Result<T, String>> {
    let mut future = Box::pin(future);
    poll_fn(
        move |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(message(&*panic))),
        },
    )
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".to_owned())
}
