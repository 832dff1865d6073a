//! What does not change while the process runs.
use std::time::{Duration, SystemTime};

use crate::config::{Config, Listen};

/// The process, to who asks what runs here.
pub struct About {
    /// Of the package.
    pub version: &'static str,
    /// What the cores run on: `io_uring`, `epoll`, or both.
    pub driver: String,
    /// How many there are.
    pub workers: usize,
    /// Where clients come in.
    pub listen: Listen,
    /// Where their requests go: the base URL.
    pub upstream: String,
    /// Connections of clients that are admitted at the same time.
    pub client_connections_max: u64,
    /// Bytes of request bodies that are held at the same time.
    pub buffered_bytes_max: u64,
    /// When the process started.
    pub started: SystemTime,
    /// `RESPONSE_HEADER_TIMEOUT_SECONDS`.
    pub header_timeout: Duration,
    /// Every setting as it takes effect, secrets masked.
    pub settings: Vec<(&'static str, String)>,
}

impl About {
    /// A process that has just started.
    pub fn new(config: &Config, listen: Listen, driver: String) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            driver,
            workers: config.workers,
            listen,
            upstream: config.upstream.url(),
            client_connections_max: config.client_connections_max,
            buffered_bytes_max: config.buffered_bytes_max,
            started: SystemTime::now(),
            header_timeout: config.attempts.header_timeout,
            settings: config.effective(),
        }
    }
}
