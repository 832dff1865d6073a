//! Why an attempt ended without a response byte.
use std::fmt;
use std::io;
use std::time::Duration;

use crate::net::tls::is_certificate_error;
use crate::refusal::Refusal;
use crate::telemetry::record::Then;
use crate::telemetry::words::Cause;
use crate::upstream::attempt::Limits;
use crate::upstream::outbound::Fault;

/// Each variant is a cause that a person would tell apart.
#[derive(Debug)]
pub enum Failure {
    /// All connections that `UPSTREAM_MAX_CONNECTIONS` allows stayed in use.
    PoolTimeout(Duration),
    /// The name does not exist.
    NoSuchName(String),
    /// The name could not be looked up.
    Resolve(String),
    /// Resolving, connecting and the handshakes took too long.
    ConnectTimeout(Duration),
    /// Every address of the upstream, or of the outbound proxy, refused or failed; the last one's error.
    Connect(&'static str, io::Error),
    /// The outbound proxy was not done in time.
    ProxyTimeout(Duration),
    /// The outbound proxy did not make a connection.
    Proxy(Fault),
    /// The TLS handshake failed.
    Handshake(io::Error),
    /// No byte of the request was taken for this long.
    WriteTimeout(Duration),
    /// The request could not be sent.
    Write(io::Error),
    /// Nothing came back in time: the limit and its setting.
    HeaderTimeout(Duration, &'static str),
    /// The connection was closed before a byte came back.
    Closed,
    /// The connection broke before a byte came back.
    Read(io::Error),
}

impl Failure {
    /// Why there is no answer: what stopped the sending comes before what it led to. `read` as in
    /// [`Stream::try_read`](crate::net::stream::Stream::try_read), when the wait was over.
    pub(super) fn of(
        read: io::Result<Option<usize>>,
        write_error: Option<io::Error>,
        limits: Limits,
    ) -> Self {
        match (write_error, read) {
            // TLS 1.3 tells what is wrong with our certificate after the handshake, and perhaps after
            // the request has gone out: what is sent then is not looked at.
            (_, Err(error)) if is_certificate_error(&error) => Self::Handshake(error),
            (Some(error), _) if error.kind() == io::ErrorKind::TimedOut => {
                Self::WriteTimeout(limits.write)
            }
            (Some(error), _) => Self::Write(error),
            (None, Ok(Some(_))) => Self::Closed,
            (None, Ok(None)) => {
                Self::HeaderTimeout(limits.header.unwrap_or_default(), limits.header_setting)
            }
            (None, Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            (None, Err(error)) => Self::Read(error),
        }
    }

    /// As a word, for logs and metrics.
    pub fn cause(&self) -> Cause {
        match self {
            Self::PoolTimeout(_) => Cause::PoolTimeout,
            Self::NoSuchName(_) => Cause::NoSuchName,
            Self::Resolve(_) => Cause::ResolveFailed,
            Self::ConnectTimeout(_) => Cause::ConnectTimeout,
            Self::Connect(..) => Cause::ConnectFailed,
            Self::ProxyTimeout(_) => Cause::ProxyTimeout,
            Self::Proxy(Fault::Refused(_)) => Cause::ProxyRefused,
            Self::Proxy(Fault::Garbage(_) | Fault::Cut(_)) => Cause::ProxyFailed,
            Self::Handshake(_) => Cause::TlsFailed,
            Self::WriteTimeout(_) => Cause::WriteTimeout,
            Self::Write(_) => Cause::WriteFailed,
            Self::HeaderTimeout(..) => Cause::HeaderTimeout,
            Self::Closed => Cause::Closed,
            Self::Read(_) => Cause::ReadFailed,
        }
    }

    /// Whether another attempt may fare better. A certificate that is not trusted, theirs or ours, and a
    /// name that does not exist stay so.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoSuchName(_) => false,
            Self::Proxy(fault) => fault.may_pass(),
            Self::Handshake(error) => !is_certificate_error(error),
            _ => true,
        }
    }

    /// Whether another address may fare better.
    pub(super) fn may_pass_elsewhere(&self) -> bool {
        match self {
            Self::Proxy(fault) if fault.is_of_address() => true,
            failure => failure.may_pass(),
        }
    }

    /// Whether this is what a connection looks like that was lost, and nobody told us.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Read(error) if error.kind() == io::ErrorKind::TimedOut)
    }

    /// Whether this is what a connection looks like that the upstream closed while it was idle, or that
    /// was lost.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Closed | Self::Read(_) | Self::Write(_))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoolTimeout(limit) => {
                write!(
                    f,
                    "no upstream connection became free within {} s (POOL_TIMEOUT_SECONDS)",
                    limit.as_secs_f64()
                )
            }
            Self::NoSuchName(reason) | Self::Resolve(reason) => f.write_str(reason),
            Self::ConnectTimeout(limit) => {
                write!(
                    f,
                    "no connection to the upstream within {} s (CONNECT_TIMEOUT_SECONDS)",
                    limit.as_secs_f64()
                )
            }
            Self::Connect(to, error) => write!(f, "could not connect to the {to}: {error}"),
            Self::ProxyTimeout(limit) => {
                write!(
                    f,
                    "no connection through the outbound proxy within {} s (CONNECT_TIMEOUT_SECONDS)",
                    limit.as_secs_f64()
                )
            }
            Self::Proxy(fault) => fault.fmt(f),
            Self::Handshake(error) => {
                write!(f, "the TLS handshake with the upstream failed: {error}")
            }
            Self::WriteTimeout(limit) => {
                write!(
                    f,
                    "the upstream took no request bytes for {} s (WRITE_TIMEOUT_SECONDS)",
                    limit.as_secs_f64()
                )
            }
            Self::Write(error) => write!(
                f,
                "the upstream broke the connection while the request was sent: {error}"
            ),
            Self::HeaderTimeout(limit, setting) => {
                write!(
                    f,
                    "no response from the upstream within {} s ({setting})",
                    limit.as_secs_f64()
                )
            }
            Self::Closed => f.write_str("the upstream closed the connection without a response"),
            Self::Read(_) if self.is_silence() => {
                f.write_str("the connection to the upstream was lost: nothing came back from it")
            }
            Self::Read(error) => write!(
                f,
                "the upstream broke the connection without a response: {error}"
            ),
        }
    }
}

/// What the client is told after the last of `sends` sendings.
pub fn refusal(failure: &Failure, sends: u32, then: Then) -> Refusal {
    let times = match sends {
        0 => "nothing was sent".to_owned(),
        1 => "sent once".to_owned(),
        sends => format!("sent {sends} times"),
    };
    let mut message = format!("{failure}; {times}");
    if let Some(reason) = then.denial() {
        message.push_str("; ");
        message.push_str(reason);
    }
    match failure {
        Failure::HeaderTimeout(..) => Refusal::HeaderTimeout(message),
        Failure::PoolTimeout(_)
        | Failure::ConnectTimeout(_)
        | Failure::ProxyTimeout(_)
        | Failure::WriteTimeout(_) => Refusal::UpstreamTimeout(message),
        _ => Refusal::UpstreamRequest(message),
    }
}
