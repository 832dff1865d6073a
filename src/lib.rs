//! codex-reset-proxy
pub mod config;
pub mod downstream;
pub mod http1;
pub mod net;
pub mod refusal;
pub mod upstream;
