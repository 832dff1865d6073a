//! What operators look at: the admin listener, its page, its numbers for Prometheus and for scripts.
pub mod about;
