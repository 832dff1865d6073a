//! Arguments, settings, workers, signals.
fn main() {}
