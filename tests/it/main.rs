//! What behaviour.md promises, shown on the built binary: one file a promise, one test a law.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "the scripted upstream blocks on purpose, and a fault ends its test"
)]
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod activation;
mod addresses;
mod admin;
mod attempts_detail;
mod bodies;
mod budget;
mod client_leaves;
mod commit;
mod counted;
mod counted_clients;
mod cut;
mod delivery;
mod descriptors;
mod fairness;
mod fault_matrix;
mod faults;
mod first_minutes;
mod framing_request;
mod framing_response;
mod greedy;
mod healthy;
mod hostile;
mod log_lines;
mod logs;
mod lost;
mod metrics;
mod model;
mod operation;
mod outbound;
mod outbound_real;
mod outbound_refuses;
mod overload;
mod page;
mod page_in_a_browser;
mod pool;
mod race;
mod reach;
mod refusals;
mod release;
mod restart;
mod retry;
mod secrets;
mod service;
mod settings;
mod smuggling;
mod soak;
mod splice;
mod sse;
mod stage;
mod stalled;
mod storm;
mod supply;
mod support;
mod syscalls;
mod tidy;
mod tls;
mod tls_client;
mod tls_files;
mod tls_real;
mod tls_records;
mod tls_verdicts;
mod tunnel;
mod unix;
mod upstream_dies;
