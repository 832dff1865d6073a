//! What a core tells about its work: log lines, numbers, and what it is at.
//!
//! All of it belongs to the core's thread. Nothing is shared: who wants to know asks the core.
pub mod clock;
pub mod counters;
mod failed;
mod families;
pub mod json;
pub mod live;
pub mod log;
pub mod record;
pub mod report;
pub mod trace;
pub mod whole;
pub mod words;
