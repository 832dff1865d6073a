//! The runtime of everything here that carries load: io_uring with the flags the proxy prefers.
use std::io;

use monoio::time::TimeDriver;
use monoio::{IoUringDriver, Runtime, RuntimeBuilder};

/// Entries of the submission queue; more operations than that are submitted in parts.
const ENTRIES: u32 = 1024;

/// Builds a runtime for the calling thread, which must be the one that runs it.
///
/// # Errors
/// The kernel is older than 6.1, forbids io_uring, or RLIMIT_MEMLOCK is too low for the ring.
pub fn runtime() -> io::Result<Runtime<TimeDriver<IoUringDriver>>> {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun();
    RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(ENTRIES)
        .uring_builder(ring)
        .enable_timer()
        .build()
}
