//! A reverse proxy for LLM APIs: a request that the upstream leaves unanswered is sent again, and
//! never after the first byte of its response.
//!
//! # The path of a request
//!
//! ```text
//! accept -> read head -> buffer body -> attempt (at most N) -> relay -> reuse
//!           downstream/  downstream/    upstream/              relay/   upstream/pool
//!                                         |         |
//!                       upstream commit --+         +-- downstream commit
//!                       (first byte read)               (first byte sent)
//! ```
//!
//! [`exchange`] is that line: whoever reads it knows the program. Everything else is a room off that
//! corridor. One process, one thread per core, each a world of its own: a runtime, a listener on the
//! same port, its pools. On a thread one connection is one task.
//!
//! # Who may know whom
//!
//! A module imports only from the rows below its own; `tests/it/tidy.rs` checks it.
//!
//! | row | what it is |
//! |---|---|
//! | `main`, `cli`, `build` | arguments, exit codes, which commit it is |
//! | [`worker`] | the cores: start, accept, drain |
//! | [`exchange`], [`admin`] | the path; what operators look at |
//! | [`relay`] | bytes after both commits |
//! | [`downstream`], [`upstream`] | the client's side, the origin's side |
//! | [`refusal`] | what the client is told when there is no response |
//! | [`net`] | the machine |
//! | [`telemetry`] | log lines, numbers |
//! | [`http1`], [`config`] | the rules of RFC 9112 on bytes; the environment |
//!
//! # What holds, and what keeps it
//!
//! | invariant | kept by |
//! |---|---|
//! | no attempt after the first response byte | [`upstream::attempt`]: its types; it waits for something to read and never for a read, and reads once more when its time is over |
//! | every attempt sends the same bytes | [`upstream::request::Replayable`] is immutable; all rewriting is done before it exists |
//! | one final response for a request | [`downstream::reply::Unanswered`] is consumed; an exchange has to return `Answered` |
//! | a connection is reused only when clean | [`relay::Relay`] alone decides it, after the message's end |
//! | hop-by-hop fields never cross | [`http1::fields`] is the only writer of a header section |
//! | bounded memory | every buffer, queue and loop has a named bound beside its reason |
//! | every wait has a deadline | [`net::deadline`]; exceptions are written where they are |
//! | next to nothing is shared between cores | no `Send` bounds; [`net::mailbox`] is the only way in; [`net::quota`] holds the limits of all cores in portions, [`net::tls`] the sessions that may be resumed |
pub mod admin;
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
