//! Load tests for codex-reset-proxy: a faulty origin, a load generator, and a comparison with peers.
mod pattern;
mod report;
mod results;

fn main() {}
