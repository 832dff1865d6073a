//! The origin's side: the request as it is sent, an attempt to have it answered, the response's
//! head, and the connections all this happens on.
pub mod attempt;
pub mod connection;
mod delivery;
pub mod failure;
pub mod outbound;
pub mod pool;
pub mod request;
pub mod response;
