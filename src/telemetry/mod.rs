//! What a core tells about its work: log lines.
pub mod log;
pub mod record;
