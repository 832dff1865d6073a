//! The runtime of a core: io_uring where the kernel allows it, epoll where not.
use std::cell::Cell;
use std::io;
use std::time::Duration;

use monoio::time::TimeDriver;
use monoio::{FusionRuntime, IoUringDriver, LegacyDriver, RuntimeBuilder};

use crate::net::tcp::Tcp;

/// A runtime on either driver. Not `Send`: build it on the thread that runs it.
pub type Runtime = FusionRuntime<TimeDriver<IoUringDriver>, TimeDriver<LegacyDriver>>;

/// Which driver a runtime has, and why not a better one.
pub struct Chosen {
    /// The name for the start line.
    pub name: &'static str,
    /// What each better choice failed with.
    pub fallbacks: Vec<String>,
}

/// Makes monoio use epoll.
const FORCE_EPOLL: &str = "MONOIO_FORCE_LEGACY_DRIVER";

thread_local! {
    static ON_EPOLL: Cell<bool> = const { Cell::new(false) };
}

/// Builds the best runtime that this kernel and these limits allow.
///
/// A ring is probed by monoio with two entries and then built with the size and flags asked for,
/// which may still fail: RLIMIT_MEMLOCK holds one ring of 1024 entries in 128 KiB, kernels before 6.1
/// lack DEFER_TASKRUN.
///
/// # Errors
/// Only where epoll fails as well, such as for want of descriptors.
pub fn build() -> io::Result<(Runtime, Chosen)> {
    let mut fallbacks = Vec::new();
    if monoio::utils::detect_uring() {
        let plain = io_uring::IoUring::builder;
        let mut fast = plain();
        fast.setup_single_issuer().setup_defer_taskrun();
        for (name, ring, entries) in [
            ("io_uring", fast, 1024),
            ("io_uring (plain)", plain(), 1024),
            ("io_uring (plain, 256 entries)", plain(), 256),
        ] {
            let builder = RuntimeBuilder::<IoUringDriver>::new();
            match builder
                .with_entries(entries)
                .uring_builder(ring)
                .enable_timer()
                .build()
            {
                Ok(runtime) => return Ok((runtime.into(), Chosen { name, fallbacks })),
                Err(error) => fallbacks.push(format!("{name}: {error}")),
            }
        }
    } else {
        fallbacks.push(why_no_ring());
    }
    let runtime = RuntimeBuilder::<LegacyDriver>::new()
        .enable_timer()
        .build()?;
    ON_EPOLL.set(true);
    let name = "epoll";
    Ok((runtime.into(), Chosen { name, fallbacks }))
}

/// What the probe of monoio found is not told: ask again.
fn why_no_ring() -> String {
    if std::env::var_os(FORCE_EPOLL).is_some() {
        return format!("{FORCE_EPOLL} is set");
    }
    match io_uring::IoUring::new(2) {
        Ok(_) => "io_uring: refused at first, or operations are missing".to_owned(),
        Err(error) => format!("io_uring: {error}"),
    }
}

/// Lets the other tasks of the core run, for a task whose operations have all gone ahead at once. On
/// epoll such operations do not wait, and waking oneself puts the task at the front of the queue:
/// only a timer that has to be waited for yields. On io_uring any operation has yielded.
pub async fn yield_on_epoll() {
    if ON_EPOLL.get() {
        crate::net::sleep(Duration::from_millis(1)).await;
    }
}

/// The same for a task that has moved many bytes without any operation of the runtime.
pub async fn yield_to_others(socket: &Tcp) {
    if ON_EPOLL.get() {
        yield_on_epoll().await;
    } else {
        // An error shows at the next read or write.
        let _ = socket.writable().await;
    }
}

/// Runs a test on a runtime of its own, which is not dropped, as a core's is not.
#[cfg(test)]
pub(crate) fn run(test: impl Future<Output = ()>) {
    let (mut runtime, _) = build().expect("a runtime");
    runtime.block_on(test);
    std::mem::forget(runtime);
}
