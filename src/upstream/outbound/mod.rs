//! The way through `OUTBOUND_PROXY`: its handshake on a fresh connection, within the time to connect.
//!
//! ```text
//!   socks5, socks5h   greeting, method [, login, status], request, reply
//!   http              CONNECT, head
//! ```
//!
//! What comes right behind the proxy's yes stays in the kernel, where TLS or the attempt finds it.
mod connect;
mod socks;

use std::fmt::{self, Display};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use crate::config::{self, Config, OutboundProtocol};
use crate::net::tcp::Tcp;

/// Most bytes of what a proxy says: of a message of SOCKS 262, of HTTP all heads up to the final one.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Bytes looked at at once.
const LOOK_BYTES: usize = 4 << 10;

/// Where the proxy is to connect to.
enum Target {
    Address(SocketAddr),
    /// To be looked up by the proxy.
    Name(String, u16),
}

impl Target {
    fn port(&self) -> u16 {
        match self {
            Self::Address(addr) => addr.port(),
            Self::Name(_, port) => *port,
        }
    }
}

/// Why there is no way through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It said no.
    Refused(Refused),
    /// What it said makes no sense.
    Garbage(&'static str),
    /// The connection ended or broke before it had said all.
    Cut(io::ErrorKind),
}

/// What a parser says of the bytes received so far: what they mean and how many of them, or that more is
/// to come.
type Answer<T> = Result<Option<(T, usize)>, Fault>;

/// How the proxy said no. None of its own words are kept: they may be any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It wants user and password, and there are none.
    LoginWanted,
    /// It does not accept user and password.
    Login,
    /// The code of RFC 1928 6.
    Socks(u8),
    /// The status of a response to CONNECT.
    Status(u16),
}

impl Fault {
    /// Whether it is of the address that was asked for: another one may fare better.
    pub fn is_of_address(&self) -> bool {
        matches!(self, Self::Refused(Refused::Socks(_)))
    }

    /// Whether another attempt may fare better: what is wrong with the settings or forbidden stays so.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Refused(Refused::LoginWanted | Refused::Login) | Self::Garbage(_) => false,
            Self::Refused(Refused::Socks(code)) => socks::meaning(*code).1,
            Self::Refused(Refused::Status(status)) => connect::may_pass(*status),
            Self::Cut(_) => true,
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(Refused::LoginWanted) => {
                f.write_str("the outbound proxy wants a user and a password (OUTBOUND_PROXY)")
            }
            Self::Refused(Refused::Login) => f.write_str(
                "the outbound proxy does not accept the user and password of OUTBOUND_PROXY",
            ),
            Self::Refused(Refused::Socks(code)) => {
                let (meaning, _) = socks::meaning(*code);
                write!(
                    f,
                    "the outbound proxy refused: {meaning} (SOCKS code {code})"
                )
            }
            Self::Refused(Refused::Status(status)) => {
                write!(f, "the outbound proxy refused CONNECT with {status}")
            }
            Self::Garbage(reason) => {
                write!(f, "the outbound proxy's answer is unusable: {reason}")
            }
            Self::Cut(error) => write!(
                f,
                "the outbound proxy broke the connection in the handshake: {error}"
            ),
        }
    }
}

/// The way through the proxy.
pub struct Outbound {
    proxy: config::Outbound,
    /// What the proxy is asked for, where it is not one of the upstream's addresses.
    name: Target,
}

impl Outbound {
    /// The way that the settings name.
    pub fn of(config: &Config) -> Option<Self> {
        let upstream = &config.upstream;
        Some(Self {
            proxy: config.outbound.clone()?,
            name: match upstream.host.parse::<IpAddr>() {
                Ok(ip) => Target::Address(SocketAddr::new(ip, upstream.port)),
                Err(_) => Target::Name(upstream.host.clone(), upstream.port),
            },
        })
    }

    /// Has the proxy at the other end of `tcp` connect to `target`, an address of the upstream, or look
    /// one up: from then on the stream is the upstream's. Dropping the future gives the connection up.
    pub(super) async fn ask(
        &self,
        tcp: &Tcp,
        target: Option<SocketAddr>,
        stall: Duration,
    ) -> Result<(), Fault> {
        let address = target.map(Target::Address);
        let target = address.as_ref().unwrap_or(&self.name);
        let login = self.proxy.login.as_ref();
        if self.proxy.protocol == OutboundProtocol::Http {
            say(tcp, connect::request(target, login), stall).await?;
            return hear(tcp, |bytes| connect::connected(bytes, login.is_some())).await;
        }
        say(tcp, socks::greeting(login.is_some()), stall).await?;
        let chosen = |bytes: &[u8]| socks::chosen(bytes, login.is_some());
        if hear(tcp, chosen).await?
            && let Some(login) = login
        {
            say(tcp, socks::login(login), stall).await?;
            hear(tcp, socks::admitted).await?;
        }
        say(tcp, socks::request(target), stall).await?;
        hear(tcp, socks::connected).await
    }
}

async fn say(tcp: &Tcp, message: Vec<u8>, stall: Duration) -> Result<(), Fault> {
    let written = tcp.write(Bytes::from(message), stall).await;
    written.map(drop).map_err(|error| Fault::Cut(error.kind()))
}

/// Reads what `parse` takes for a whole answer, and not a byte beyond it.
async fn hear<T>(tcp: &Tcp, parse: impl Fn(&[u8]) -> Answer<T>) -> Result<T, Fault> {
    let cut = |error: io::Error| Fault::Cut(error.kind());
    let mut received = Vec::new();
    while received.len() < ANSWER_BYTES_MAX {
        tcp.readable().await.map_err(cut)?;
        let before = received.len();
        match tcp.peek(&mut received, LOOK_BYTES).map_err(cut)? {
            None => continue,
            Some(0) => return Err(Fault::Cut(io::ErrorKind::UnexpectedEof)),
            Some(_) => (),
        }
        let parsed = parse(&received)?;
        let length = parsed
            .as_ref()
            .map_or(received.len(), |(_, length)| *length);
        tcp.skip(length - before).map_err(cut)?;
        if let Some((answer, _)) = parsed {
            return Ok(answer);
        }
    }
    Err(Fault::Garbage("it exceeds 16 KiB"))
}
