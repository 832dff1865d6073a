//! The rules of RFC 9112 as functions on bytes: no socket, no clock, no settings.
//!
//! `head` finds and parses a head, `framing` says how long its body is, `chunked` follows a chunked
//! body, `target` checks a request-target, `fields` writes the heads that go on.
pub mod chunked;
pub mod fields;
pub mod framing;
pub mod head;
pub mod target;
