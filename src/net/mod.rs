//! The machine: sockets, TLS, names, buffers, deadlines. monoio and rustls are named here and in
//! `worker` only.
//!
//! Everything belongs to one core. What is awaited here may be dropped at any time unless its
//! documentation says otherwise; after a dropped write the connection is good for closing only.
pub mod buffer;
pub mod catch;
pub mod deadline;
pub mod drain;
pub mod driver;
pub mod inherited;
pub mod listener;
pub mod mailbox;
pub mod quota;
pub mod resolver;
pub mod shutter;
pub mod socket;
pub mod splice;
pub mod stream;
pub mod supervisor;
pub mod tcp;
pub mod tls;
pub mod unix;

pub use deadline::sleep;
pub use monoio::task::JoinHandle;
pub use monoio::{select, spawn};
