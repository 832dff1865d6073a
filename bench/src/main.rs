//! Load tests for codex-reset-proxy: a faulty origin, a load generator, and a comparison with peers.
mod origin;
mod pattern;
mod results;

fn main() {}
