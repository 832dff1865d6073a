//! Where to listen: for clients, and for operators.
use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::Listen;
use super::environment::{Environment, Fault, Read};

/// `sun_path` has 108 bytes (unix(7)), the last of which is NUL.
const SOCKET_BYTES_MAX: usize = 107;

/// The place where clients come in alone, for asking a running proxy: the other variables need not be
/// set.
///
/// # Errors
///
/// Every fault of the variables that it is made of.
pub fn listen_from_env() -> Result<Listen, Vec<Fault>> {
    Environment::read(&|name| std::env::var_os(name), read_listen)
}

pub(super) fn read_listen(env: &mut Environment) -> Read<Listen> {
    let socket = read_socket(env);
    let host = read_host(env, "LISTEN_HOST");
    let proxy_port = env.number("PROXY_PORT", 1..=u16::MAX);
    let port = env.optional_number("LISTEN_PORT", 0..=u16::MAX);
    let proxy_port = proxy_port?;
    let addr = SocketAddr::new(host?, port?.unwrap_or(proxy_port));
    Ok(socket?.map_or(Listen::Tcp(addr), Listen::Unix))
}

impl Listen {
    /// The port, where it is not a path.
    pub(super) fn addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(addr) => Some(*addr),
            Self::Unix(_) => None,
        }
    }
}

impl Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Operators look where clients do not come: never on the port of `listen`.
pub(super) fn read_admin(env: &mut Environment, listen: &Read<Listen>) -> Read<Option<SocketAddr>> {
    let host = read_host(env, "ADMIN_HOST");
    let Some(port) = env.optional_number("ADMIN_PORT", 0..=u16::MAX)? else {
        return Ok(None);
    };
    let clients = listen.as_ref().ok().and_then(Listen::addr);
    if port > 0 && clients.is_some_and(|addr| addr.port() == port) {
        let problem = "is the port that clients come to".to_owned();
        return Err(env.fault("ADMIN_PORT", &port.to_string(), problem));
    }
    Ok(Some(SocketAddr::new(host?, port)))
}

fn read_host(env: &mut Environment, name: &'static str) -> Read<IpAddr> {
    let text = env.text_or_default(name)?;
    parse_host(&text).ok_or_else(|| {
        let problem = "is not an IP address, nor localhost".to_owned();
        env.fault(name, &text, problem)
    })
}

fn read_socket(env: &mut Environment) -> Read<Option<PathBuf>> {
    const NAME: &str = "LISTEN_UNIX";
    let Some(text) = env.text(NAME)? else {
        return Ok(None);
    };
    let parsed = parse_socket(&text).map(Some);
    parsed.map_err(|problem| env.fault(NAME, &text, problem.to_owned()))
}

/// The path of a socket in the file system.
pub(super) fn parse_socket(text: &str) -> Result<PathBuf, &'static str> {
    if !text.starts_with('/') || text.ends_with('/') || text.contains(char::is_control) {
        return Err("is not the absolute path of a socket, such as /run/name.sock");
    }
    if text.len() > SOCKET_BYTES_MAX {
        return Err("has a path of more than 107 bytes, which is all that a socket's may have");
    }
    Ok(text.into())
}

/// An IPv6 address may stand in brackets, as it does in a URL.
fn parse_host(text: &str) -> Option<IpAddr> {
    if text.eq_ignore_ascii_case("localhost") {
        return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    match text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}
