//! Where to listen: for clients, and for operators.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::environment::{Environment, Fault, Read};

/// The address alone, for asking a running proxy: the other variables need not be set.
///
/// # Errors
///
/// Every fault of the variables that the address is made of.
pub fn listen_from_env() -> Result<SocketAddr, Vec<Fault>> {
    Environment::read(&|name| std::env::var_os(name), read_listen)
}

pub(super) fn read_listen(env: &mut Environment) -> Read<SocketAddr> {
    let host = read_host(env, "LISTEN_HOST");
    let proxy_port = env.number("PROXY_PORT", 1..=u16::MAX);
    let port = env.optional_number("LISTEN_PORT", 0..=u16::MAX);
    let proxy_port = proxy_port?;
    Ok(SocketAddr::new(host?, port?.unwrap_or(proxy_port)))
}

/// Operators look where clients do not come: never on the port of `listen`.
pub(super) fn read_admin(
    env: &mut Environment,
    listen: &Read<SocketAddr>,
) -> Read<Option<SocketAddr>> {
    let host = read_host(env, "ADMIN_HOST");
    let Some(port) = env.optional_number("ADMIN_PORT", 0..=u16::MAX)? else {
        return Ok(None);
    };
    if port > 0 && listen.as_ref().is_ok_and(|listen| listen.port() == port) {
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
