//! `OUTBOUND_PROXY` taken apart. No fault shows it: what looks like a host may be half a password.
use std::fmt::{self, Display};

use super::base_url::{parse_host, parse_port};
use super::effective::MASK;
use super::environment::{Environment, Read};
use super::{Login, Outbound, OutboundProtocol, Secret, Upstream};

/// Where the URL has no port: for all three as curl has it.
const PORT: u16 = 1080;

/// RFC 1929 2: a length is one byte.
const SOCKS_LOGIN_BYTES_MAX: usize = 255;

/// No proxy leads to a socket of this machine.
pub(super) fn read(env: &mut Environment, upstream: &Read<Upstream>) -> Read<Option<Outbound>> {
    const NAME: &str = "OUTBOUND_PROXY";
    let text = env.text(NAME)?;
    if text.is_some() && upstream.as_ref().is_ok_and(|it| it.socket.is_some()) {
        let problem = "leads to no Unix socket, which UPSTREAM_BASE_URL is: unset one of them";
        return Err(env.fault_unseen(NAME, problem));
    }
    let parsed = text.as_deref().map(parse).transpose();
    parsed.map_err(|problem| env.fault_unseen(NAME, &format!("{problem} (its value is not shown)")))
}

fn parse(text: &str) -> Result<Outbound, &'static str> {
    const SCHEMES: &str = "is not a socks5://, socks5h:// or http:// URL";
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("holds white space or a control character; a URL has neither");
    }
    let (scheme, rest) = text.split_once("://").ok_or(SCHEMES)?;
    let protocol = match scheme.to_ascii_lowercase().as_str() {
        "socks5" => OutboundProtocol::Socks5,
        "socks5h" => OutboundProtocol::Socks5h,
        "http" => OutboundProtocol::Http,
        _ => return Err(SCHEMES),
    };
    if rest.contains(['?', '#']) {
        return Err("has a query (?) or a fragment (#); write %3F or %23 in a user or password");
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains('/') {
        return Err("has a path; write %2F for a slash in a user or password");
    }
    let (userinfo, place) = match authority.rsplit_once('@') {
        Some((userinfo, place)) => (Some(userinfo), place),
        None => (None, authority),
    };
    let host_end = match place.find(']') {
        Some(at) => at + 1,
        None => place.find(':').unwrap_or(place.len()),
    };
    let (host, port) = place.split_at(host_end);
    let port = match port {
        "" => Some(PORT),
        port => port.strip_prefix(':').and_then(parse_port),
    };
    Ok(Outbound {
        protocol,
        host: parse_host(host).ok_or("has a host that is neither a name nor an IP address")?,
        port: port.ok_or("has a port that is not a whole number from 1 to 65535")?,
        login: userinfo.map(|text| login(text, protocol)).transpose()?,
    })
}

fn login(userinfo: &str, protocol: OutboundProtocol) -> Result<Login, &'static str> {
    const ENCODING: &str =
        "has a user or password with a % that is not followed by two hexadecimal digits";
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let user = percent_decoded(user).ok_or(ENCODING)?;
    let password = percent_decoded(password).ok_or(ENCODING)?;
    if protocol == OutboundProtocol::Http {
        // RFC 7617 2.
        if user.contains(&b':') || user.iter().chain(&password).any(u8::is_ascii_control) {
            return Err(
                "has a colon in its user, or a control character in its user or password; \
                        Basic authentication allows neither",
            );
        }
    } else if user.is_empty() || user.len().max(password.len()) > SOCKS_LOGIN_BYTES_MAX {
        return Err("has a user that is empty, or a user or password of more than 255 bytes");
    }
    Ok(Login {
        user: Secret::new(user),
        password: Secret::new(password),
    })
}

/// RFC 3986 2.1.
fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        decoded.push(u8::try_from(value).ok()?);
    }
    Some(decoded)
}

/// The URL as it may be shown.
impl Display for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            OutboundProtocol::Socks5 => "socks5",
            OutboundProtocol::Socks5h => "socks5h",
            OutboundProtocol::Http => "http",
        };
        write!(f, "{scheme}://")?;
        if self.login.is_some() {
            write!(f, "{MASK}@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pair = (Vec<u8>, Vec<u8>);

    fn parsed(text: &str) -> (String, Option<Pair>) {
        let outbound = parse(text).unwrap_or_else(|problem| panic!("{text} {problem}"));
        let login = outbound.login.as_ref().map(|login| {
            let (user, password) = (login.user.expose(), login.password.expose());
            (user.to_vec(), password.to_vec())
        });
        (outbound.to_string(), login)
    }

    #[test]
    fn a_proxy_has_a_scheme_a_host_and_the_port_that_curl_would_take() {
        for (text, shown) in [
            ("socks5://127.0.0.1:9050", "socks5://127.0.0.1:9050"),
            ("SOCKS5H://Proxy.Example/", "socks5h://Proxy.Example:1080"),
            ("http://proxy", "http://proxy:1080"),
            ("socks5://[::1]", "socks5://[::1]:1080"),
            ("http://[2001:db8::1]:3128/", "http://[2001:db8::1]:3128"),
        ] {
            assert_eq!(parsed(text), (shown.to_owned(), None));
        }
    }

    #[test]
    fn a_login_is_percent_decoded_and_not_shown() {
        let long = "p".repeat(255);
        for (userinfo, user, password) in [
            ("u:p", &b"u"[..], &b"p"[..]),
            ("u", b"u", b""),
            ("u:", b"u", b""),
            ("u:a:b", b"u", b"a:b"),
            ("u:a@b", b"u", b"a@b"),
            ("%75%40:%2f%3F%23%25", b"u@", b"/?#%"),
            ("u:%E2%82%ac", b"u", "€".as_bytes()),
            (&format!("u:{long}"), b"u", long.as_bytes()),
        ] {
            for scheme in ["socks5", "http"] {
                let (shown, login) = parsed(&format!("{scheme}://{userinfo}@h:1"));
                assert_eq!(login, Some((user.to_vec(), password.to_vec())));
                assert_eq!(shown, format!("{scheme}://********@h:1"));
            }
        }
        let (_, login) = parsed("http://:token@h");
        assert_eq!(login, Some((Vec::new(), b"token".to_vec())));
        let (_, login) = parsed("socks5://%00%3a:%ff@h");
        assert_eq!(login, Some((vec![0, b':'], vec![0xff])));
    }

    #[test]
    fn what_is_no_proxy_is_refused() {
        let long = "x".repeat(256);
        for text in [
            "",
            "proxy:1080",
            "//proxy",
            "://proxy",
            "https://proxy",
            "socks4://proxy",
            "socks://proxy",
            "ftp://proxy",
            "http:/proxy",
            "http://",
            "http://:1080",
            "http://u:p@",
            "http://proxy:",
            "http://proxy:0",
            "http://proxy:65536",
            "http://proxy:+80",
            "http://proxy:80:80",
            "http://::1",
            "http://[::1",
            "http://[::1]x",
            "http://[::1]:",
            "http://proxy/path",
            "http://proxy//",
            "http://proxy?x",
            "http://proxy/#x",
            "http://u:p/x@proxy",
            "http://u:p#x@proxy",
            "http://pro xy",
            "http://pro\u{1}xy",
            "http://1.2.3",
            "http://u:%@h",
            "http://u:%4@h",
            "http://u:%4g@h",
            "http://u:%+4@h",
            "http://u%3A:p@h",
            "http://u:%0A@h",
            "socks5://:p@h",
            "socks5://@h",
            &format!("socks5h://u:{long}@h"),
            &format!("socks5h://{long}@h"),
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
