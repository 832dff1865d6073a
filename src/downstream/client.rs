//! A client's connection: read with deadlines, watched, and closed so that the client sees why.
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use crate::config::ClientLimits;
use crate::net::buffer::Buffer;
use crate::net::deadline::Deadline;
use crate::net::quota::Quota;
use crate::net::sleep;
use crate::net::tcp::Tcp;

/// How often a client that has sent more than we have read is looked at: readiness says nothing
/// about its leaving then. Less often with time, for thousands of them are no load either.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(160);
/// How long, and how many bytes, a client that we have refused may go on sending while it reads our
/// answer. Closing at once would reset the connection and could destroy the answer on its way.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES_MAX: usize = 64 << 20;

/// Resolves when the client has left.
pub type Left<'a> = Pin<&'a mut dyn Future<Output = ()>>;

/// The connection of one client.
pub struct Client {
    /// Its socket.
    pub tcp: Tcp,
    /// What it may do, and how slowly.
    pub limits: ClientLimits,
    /// What its request bodies are taken from.
    pub bodies: Rc<Quota>,
}

/// Why nothing more can be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client has closed or broken the connection.
    Left,
    /// The deadline has passed.
    Late,
}

impl Client {
    /// Waits for bytes and appends them to `input`, which gets memory only when there are some.
    pub async fn receive(&self, input: &mut Buffer, deadline: Deadline) -> Result<(), Ended> {
        loop {
            match deadline.limit(self.tcp.readable()).await {
                Ok(Ok(())) => (),
                Ok(Err(_)) => return Err(Ended::Left),
                Err(_) => return Err(Ended::Late),
            }
            let count = self.read_into(input)?;
            if count > 0 {
                self.tcp.worked(count);
                self.tcp.breathe().await;
                return Ok(());
            }
        }
    }

    /// Appends to `input` what is there; 0 where nothing is.
    pub fn read_into(&self, input: &mut Buffer) -> Result<usize, Ended> {
        if input.spare() == 0 {
            match input.len() {
                0 => *input = Buffer::small(),
                held => input.reserve(held),
            }
        }
        match self.tcp.try_read(input) {
            Ok(Some(0)) | Err(_) => Err(Ended::Left),
            Ok(Some(count)) => Ok(count),
            Ok(None) => Ok(0),
        }
    }

    /// Waits until the client has left: closed its side, or broken the connection. Bytes it has sent
    /// ahead stay where they are.
    pub async fn left(&self) {
        let mut pause = LOOK_AGAIN;
        // An error of the wait is an end as well.
        while self.tcp.readable().await.is_ok() && !self.tcp.has_hung_up() {
            sleep(pause).await;
            pause = LOOK_AGAIN_MAX.min(2 * pause);
        }
    }

    /// Writes all of `bytes`, as long as the client stays and takes some now and then.
    pub fn write(&self, bytes: &mut Buffer) -> impl Future<Output = io::Result<()>> {
        self.tcp.write_buffer(bytes, self.limits.write_timeout)
    }

    /// Half-closes and reads on for a bounded while, so that a client still sending reads what it
    /// was told.
    pub async fn linger(&self) {
        self.tcp.close_write();
        let deadline = Deadline::after(LINGER);
        let (mut scrap, mut bytes) = (Buffer::empty(), 0);
        while bytes < LINGER_BYTES_MAX && self.receive(&mut scrap, deadline).await.is_ok() {
            bytes += scrap.len();
            scrap.clear();
        }
    }

    /// Makes closing a reset: the client must not take what it has for the whole.
    pub fn reset_on_close(&self) {
        self.tcp.reset_on_close();
    }
}
