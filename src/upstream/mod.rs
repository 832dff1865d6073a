//! The origin's side: the request as it is sent, an attempt to have it answered, the response's
//! head, and the connections all this happens on.
pub mod attempt;
pub mod connection;
mod delivery;
pub mod failure;
mod order;
pub mod outbound;
pub mod pool;
mod race;
pub mod request;
pub mod response;
