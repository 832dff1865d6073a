//! The head of a response, from the first byte received to the empty line.
use std::fmt;
use std::io;

use crate::http1::fields::Connection as ConnectionOptions;
use crate::http1::framing::{self, Framing};
use crate::http1::head::{self, ResponseHead, Scan, Version};
use crate::net::buffer::Buffer;
use crate::upstream::attempt::{Committed, Sending};
use crate::upstream::connection::Connection;

/// Largest response head, in bytes.
const HEAD_BYTES_MAX: usize = 256 << 10;
/// How one begins (RFC 8446, 5.1): what TLS says to who does not speak it.
const TLS_ALERT: [u8; 2] = [21, 3];

/// Why there is no final response head. The request has been answered, so it is not sent again.
#[derive(Debug)]
pub enum Fault {
    /// The head did not come to its end in time: the limit in words.
    Timeout(String),
    /// What came is no HTTP response, or its end cannot be known.
    Malformed(&'static str),
    /// The connection ended within the head.
    Cut(io::Error),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(message) => f.write_str(message),
            Self::Malformed(reason) => f.write_str(reason),
            Self::Cut(error) => write!(f, "the connection ended within the response head: {error}"),
        }
    }
}

/// A response whose head has been read; its body follows.
pub struct Response {
    /// The connection the body comes on.
    pub conn: Connection,
    /// Bytes of the body that came with the head, or more.
    pub received: Buffer,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the upstream keeps the connection after this response.
    pub keeps: bool,
    /// What has become of the request.
    pub sending: Sending,
}

/// What of a head is needed besides what is written to the client.
pub struct Read<T> {
    /// 100 to 999.
    pub status: u16,
    framing: Framing,
    keeps: bool,
    length: usize,
    /// What `then` made of it.
    pub then: T,
}

impl Committed {
    /// Reads one head, interim or final, and hands it to `then`. It stays in front of what was
    /// received until [`Self::skip`] or [`Self::into_response`].
    pub async fn read_head<T>(
        &mut self,
        method: &str,
        then: impl FnOnce(&ResponseHead<'_>, Framing, &ConnectionOptions<'_>) -> T,
    ) -> Result<Read<T>, Fault> {
        let mut scan = Scan::default();
        let length = loop {
            if !b"HTTP/1.".starts_with(&self.received[..self.received.len().min(7)]) {
                return Err(Fault::Malformed(
                    match self.received.starts_with(&TLS_ALERT) {
                        true => "it is a TLS alert: UPSTREAM_BASE_URL has to begin with https://",
                        false => "it does not start with HTTP/1.",
                    },
                ));
            }
            match scan.head_length(&self.received) {
                Ok(Some(length)) => break length,
                Ok(None) if self.received.len() < HEAD_BYTES_MAX => self.receive().await?,
                Ok(None) => return Err(Fault::Malformed("the head exceeds 256 KiB")),
                Err(error) => return Err(Fault::Malformed(error.reason())),
            }
        };
        let parsed = head::with_response(&self.received[..length], |head| {
            let framing =
                framing::of_response(method, head).map_err(|ambiguous| ambiguous.reason())?;
            let options = ConnectionOptions::of(head.fields)
                .map_err(|_| "Connection has too many options")?;
            Ok(Read {
                status: head.status,
                framing,
                keeps: head.version == Version::Http11
                    && !options.close
                    && framing != Framing::UntilClose,
                length,
                then: then(head, framing, &options),
            })
        });
        match parsed {
            Ok(read) => read.map_err(Fault::Malformed),
            Err(error) => Err(Fault::Malformed(error.reason())),
        }
    }

    /// Passes over an interim head.
    pub fn skip<T>(&mut self, read: &Read<T>) {
        self.received.consume(read.length);
    }

    /// Passes over the final head: the body follows.
    pub fn into_response<T>(mut self, read: &Read<T>) -> Response {
        self.received.consume(read.length);
        Response {
            conn: self.conn,
            received: self.received,
            framing: read.framing,
            keeps: read.keeps,
            sending: self.sending,
        }
    }

    /// Ends the connection.
    pub fn close(self) {
        self.conn.close();
    }

    async fn receive(&mut self) -> Result<(), Fault> {
        if self.received.spare() == 0 {
            // Heads beyond a small buffer are rare: grow by as much again.
            self.received.reserve(self.received.len());
        }
        let stream = &self.conn.stream;
        let received = &mut self.received;
        let read = async {
            loop {
                let _ = stream.readable().await; // an error shows at the read
                if let Some(count) = stream.try_read(received)? {
                    return Ok(count);
                }
            }
        };
        let read = match self.deadline.limit(read).await {
            Ok(read) => read.map(Some),
            // What has come while the core was kept from looking is in time.
            Err(_) => stream.try_read(received),
        };
        match read {
            Ok(Some(0)) => Err(Fault::Cut(io::ErrorKind::UnexpectedEof.into())),
            Ok(Some(_)) => Ok(()),
            Err(error) => Err(Fault::Cut(error)),
            Ok(None) => Err(Fault::Timeout(format!(
                "no complete response head from the upstream within {} s ({})",
                self.limits.header.unwrap_or_default().as_secs_f64(),
                self.limits.header_setting
            ))),
        }
    }
}
