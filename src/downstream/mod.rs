//! The client's side: a request read and checked, its body buffered, and one response for it.
pub mod body;
pub mod client;
pub mod reply;
pub mod request;
