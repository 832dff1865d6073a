//! codex-reset-proxy
pub mod config;
pub mod downstream;
pub mod exchange;
pub mod http1;
pub mod net;
pub mod refusal;
pub mod relay;
pub mod telemetry;
pub mod upstream;
pub mod worker;
