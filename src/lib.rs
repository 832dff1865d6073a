//! codex-reset-proxy
pub mod config;
