//! Load tests for codex-reset-proxy: a faulty origin, a load generator, and a comparison with peers.
mod load;
mod origin;
mod pattern;
mod relay;
mod report;
mod results;
mod ring;

fn main() {}
