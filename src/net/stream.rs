//! A connection to the upstream: plain or TLS.
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::Bytes;

use crate::net::buffer::Buffer;
use crate::net::tcp::Tcp;
use crate::net::tls::Tls;

/// Either kind, with the operations that both have. See [`Tcp`] for what they promise.
pub enum Stream {
    /// `http://`
    Plain(Tcp),
    /// `https://`
    Tls(Box<Tls>),
}

impl Stream {
    /// Waits until a read may find something.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.readable().await,
            Self::Tls(tls) => tls.readable().await,
        }
    }

    /// Reads what is there. `Some(0)`: the end, and over TLS a vouched one; a TLS stream that is cut
    /// fails with `UnexpectedEof`.
    pub fn try_read(&self, into: &mut Buffer) -> io::Result<Option<usize>> {
        match self {
            Self::Plain(tcp) => tcp.try_read(into),
            Self::Tls(tls) => tls.try_read(into),
        }
    }

    /// Writes of `blocks` what can go now without waiting, and takes it off; over TLS nothing.
    pub fn try_write(&self, blocks: &mut VecDeque<Bytes>) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.try_write(blocks),
            Self::Tls(_) => Ok(()),
        }
    }

    /// Writes all of `block`; `TimedOut` where `stall` passes without progress.
    pub async fn write(&self, block: &Bytes, stall: Duration) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.write(block.clone(), stall).await.map(drop),
            // Boxed: it is large, and a task holds the largest of what it may wait for.
            Self::Tls(tls) => Box::pin(tls.write(block, stall)).await,
        }
    }

    /// Writes all bytes held by `buffer` and leaves it empty; `TimedOut` as above.
    pub async fn write_buffer(&self, buffer: &mut Buffer, stall: Duration) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.write_buffer(buffer, stall).await,
            Self::Tls(tls) => {
                Box::pin(tls.write(buffer, stall)).await?;
                buffer.clear();
                Ok(())
            }
        }
    }

    /// Says that nothing more is sent; the peer may go on.
    pub async fn close_write(&self, stall: Duration) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.close_write(),
            Self::Tls(tls) => return tls.close_write(stall).await,
        }
        Ok(())
    }

    /// Whether nothing has arrived that would spoil the next exchange.
    pub fn is_quiet(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_quiet(),
            Self::Tls(tls) => tls.is_quiet(),
        }
    }

    /// Whether bytes or an end have arrived, asked and not waited for.
    pub fn has_news(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.has_news(),
            Self::Tls(tls) => tls.tcp().has_news(),
        }
    }

    /// Ends the connection now, also under an operation that still holds it.
    pub fn close(&self) {
        match self {
            Self::Plain(tcp) => tcp.close_both(),
            Self::Tls(tls) => tls.close(),
        }
    }

    /// Makes closing a reset: what is still on its way to the upstream is of no use to it.
    pub fn reset_on_close(&self) {
        self.tcp().reset_on_close();
    }

    /// The socket below.
    pub fn tcp(&self) -> &Tcp {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.tcp(),
        }
    }

    /// The socket, where its bytes are the stream's bytes.
    pub fn as_plain(&self) -> Option<&Tcp> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Tls(_) => None,
        }
    }
}
