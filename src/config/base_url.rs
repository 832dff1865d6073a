//! `UPSTREAM_BASE_URL` taken apart, and shown without what may be secret in it.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use http::Uri;

use super::Upstream;
use super::addresses::parse_socket;
use super::environment::{Environment, Read};

/// Longest name in the DNS, and longest label of one (RFC 1035 2.3.4).
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// The fields of [`super::Upstream`] that come from the URL.
pub(super) struct BaseUrl {
    pub(super) socket: Option<PathBuf>,
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) authority: String,
    pub(super) path: String,
}

pub(super) fn read(env: &mut Environment) -> Read<BaseUrl> {
    const NAME: &str = "UPSTREAM_BASE_URL";
    let Some(text) = env.text(NAME)? else {
        let problem = "is not set: write the URL of the API to forward to, such as \
                       https://api.openai.com; --help has all settings";
        return Err(env.fault_unseen(NAME, problem));
    };
    parse_base_url(&text).map_err(|problem| env.fault(NAME, &printable(&text), problem.to_owned()))
}

/// `unix:`, a socket, and where there is one a colon and the path of the URL, as nginx has it.
fn parse_base_url(text: &str) -> Result<BaseUrl, &'static str> {
    let Some(rest) = text.strip_prefix("unix:") else {
        return parse_url(text);
    };
    let (socket, path) = rest.split_once(":/").unwrap_or((rest, ""));
    Ok(BaseUrl {
        socket: Some(parse_socket(socket)?),
        ..parse_url(&format!("http://localhost/{path}"))?
    })
}

/// `Uri` splits the text; what it lets pass and we must not is checked around it.
fn parse_url(text: &str) -> Result<BaseUrl, &'static str> {
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("holds white space or a control character; a URL has neither");
    }
    if text.starts_with(['"', '\'']) {
        return Err("begins with a quotation mark; write it without");
    }
    let lacks_colon = |url: &BaseUrl| matches!(&*url.host, "http" | "https");
    if !text.contains("://")
        && parse_url(&format!("https://{text}")).is_ok_and(|url| !lacks_colon(&url))
    {
        return Err("lacks its scheme; put https:// before it, or http:// for an API without TLS");
    }
    // `Uri` drops a fragment without a word.
    if text.contains('#') {
        return Err("has a fragment (#); a base URL has none");
    }
    let uri: Uri = text
        .parse()
        .map_err(|_| "is not an http:// or https:// URL with a host, nor unix: and a path")?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("is not an http:// or https:// URL, nor unix: and a path"),
    };
    let authority = uri.authority().ok_or("has no host")?;
    if authority.as_str().contains('@') {
        return Err("has a user or password (not shown); set UPSTREAM_API_KEY instead");
    }
    if uri.query().is_some() {
        return Err("has a query (?); a base URL has none");
    }
    let path = uri.path().trim_end_matches('/');
    if path.split('/').any(is_dot_segment) {
        return Err("has a . or .. segment in its path; write the path without");
    }
    let host = authority.host();
    // `Authority::port` is `None` for a port out of range as well as for none.
    let port = match authority.as_str().strip_prefix(host) {
        Some("") if tls => 443,
        Some("") => 80,
        Some(rest) => rest
            .strip_prefix(':')
            .and_then(parse_port)
            .ok_or("has a port that is not a whole number from 1 to 65535")?,
        None => return Err("has no host"),
    };
    Ok(BaseUrl {
        socket: None,
        tls,
        host: parse_host(host).ok_or("has a host that is neither a name nor an IP address")?,
        port,
        authority: authority.as_str().to_owned(),
        path: path.to_owned(),
    })
}

impl Upstream {
    /// The base URL as it may be shown.
    pub fn url(&self) -> String {
        let (authority, path) = (&self.authority, &self.path);
        match &self.socket {
            Some(socket) if path.is_empty() => format!("unix:{}", socket.display()),
            Some(socket) => format!("unix:{}:{path}", socket.display()),
            None if self.tls => format!("https://{authority}{path}"),
            None => format!("http://{authority}{path}"),
        }
    }

    /// What to say where keys and bodies go, for anybody to read, to a name that does not look like one
    /// in a network of one's own.
    pub(super) fn overheard(&self) -> Option<String> {
        let host = &self.host;
        let is_name = host.contains('.') && host.parse::<IpAddr>().is_err();
        let ours = host.ends_with(".local") || host.ends_with(".internal");
        (is_name && !self.tls && !ours).then(|| {
            format!(
                "UPSTREAM_BASE_URL is http://: keys and bodies go to {host} unencrypted, and a redirect may \
                 be all that comes back. Write https:// unless {host} is in a network of your own."
            )
        })
    }
}

/// What of a base URL may be shown: neither userinfo, nor a query, where keys are put as well.
///
/// Works on what is no URL too: all before the last `@` might be userinfo, all behind the first `?`
/// or `#` a query.
fn printable(text: &str) -> String {
    let start = text.rfind('@').map_or(0, |at| at + 1);
    let hidden = if start > 0 { "********@" } else { "" };
    match text.find(['?', '#']) {
        Some(end) if end < start => format!("{hidden}…"),
        Some(end) => format!("{hidden}{}…", &text[start..=end]),
        None => format!("{hidden}{}", &text[start..]),
    }
}

/// RFC 3986 3.3 and 6.2.2.2: `%2e` is a dot.
fn is_dot_segment(segment: &str) -> bool {
    matches!(
        segment.to_ascii_lowercase().replace("%2e", ".").as_str(),
        "." | ".."
    )
}

pub(super) fn parse_port(text: &str) -> Option<u16> {
    // `u16::from_str` would take a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&port| digits && port > 0)
}

/// The host as a resolver and a TLS server name take it: an address, or a name of letters, digits,
/// `-` and `_` whose last label is not a number.
pub(super) fn parse_host(text: &str) -> Option<String> {
    if let Some(rest) = text.strip_prefix('[') {
        let inner = rest.strip_suffix(']')?;
        return inner.parse::<Ipv6Addr>().ok().map(|_| inner.to_owned());
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let labels_fit = name.split('.').all(|label| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    });
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
    let fits = labels_fit && name.len() <= NAME_BYTES_MAX;
    (fits && (!is_number || text.parse::<Ipv4Addr>().is_ok())).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_url(text: &str) -> BaseUrl {
        parse_base_url(text).unwrap_or_else(|problem| panic!("{text} {problem}"))
    }

    #[test]
    fn a_base_url_is_taken_apart_as_written() {
        for (text, tls, host, port, authority, path) in [
            (
                "https://api.openai.com",
                true,
                "api.openai.com",
                443,
                "api.openai.com",
                "",
            ),
            ("http://a/", false, "a", 80, "a", ""),
            ("HTTPS://A.B/v1//", true, "A.B", 443, "A.B", "/v1"),
            (
                "http://127.0.0.1:8080/a//b",
                false,
                "127.0.0.1",
                8080,
                "127.0.0.1:8080",
                "/a//b",
            ),
            (
                "https://[::1]:8443/x",
                true,
                "::1",
                8443,
                "[::1]:8443",
                "/x",
            ),
            (
                "http://[2001:db8::1]",
                false,
                "2001:db8::1",
                80,
                "[2001:db8::1]",
                "",
            ),
            (
                "https://host:443/%2F/é/.x/..y",
                true,
                "host",
                443,
                "host:443",
                "/%2F/é/.x/..y",
            ),
            (
                "http://my_service.:1",
                false,
                "my_service.",
                1,
                "my_service.:1",
                "",
            ),
        ] {
            let url = read_url(text);
            assert_eq!((url.tls, url.port), (tls, port), "{text}");
            assert_eq!((&*url.host, &*url.authority), (host, authority), "{text}");
            assert_eq!(url.path, path, "{text}");
        }
    }

    #[test]
    fn a_socket_and_the_path_of_its_url_are_taken_apart_as_written() {
        for (text, socket, path) in [
            ("unix:/run/up.sock", "/run/up.sock", ""),
            ("unix:/run/up.sock:/", "/run/up.sock", ""),
            ("unix:/run/up.sock:/v1//", "/run/up.sock", "/v1"),
            ("unix:/run/a:b:/a:/%2F", "/run/a:b", "/a:/%2F"),
            ("unix:///run/a b#c@d", "///run/a b#c@d", ""),
        ] {
            let url = read_url(text);
            assert_eq!(
                (url.tls, &*url.host, &*url.authority),
                (false, "localhost", "localhost")
            );
            assert_eq!(url.socket.as_deref(), Some(socket.as_ref()), "{text}");
            assert_eq!(url.path, path, "{text}");
        }
        assert!(read_url("http://localhost").socket.is_none());
        for text in [
            "unix:",
            "unix:/",
            "unix:run/up.sock",
            "unix:@name",
            "unix::/v1",
            "unix:/run/:/v1",
            "unix:/run/up.sock/",
            "unix:/run/up\nsock",
            "unix:/run/up.sock:/a b",
            "unix:/run/up.sock:/?x",
            "unix:/run/up.sock:/a#x",
            "unix:/run/up.sock:/a/../b",
            "https+unix:/run/up.sock",
            "http://unix:/run/up.sock",
        ] {
            assert!(parse_base_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        let long_label = format!("http://{}.com", "a".repeat(64));
        let long_name = format!("http://{}com", "abcdefg.".repeat(32));
        for text in [
            "api.openai.com",
            "api.openai.com/v1",
            "localhost:8080",
            "/v1",
            "*",
            "://a",
            "http:",
            "http://",
            "https:///v1",
            "http://:80",
            "http://?",
            "ftp://a",
            "ws://a",
            "httpss://a",
            "http:/a",
            "http:a",
            "http://a b",
            "http://a/b c",
            "http://a\u{7f}",
            "http://a/\u{a0}",
            "http://a#",
            "http://a/#x",
            "http://a?",
            "http://a/?x=1",
            "http://a:",
            "http://a:0",
            "http://a:65536",
            "http://a:99999999999",
            "http://a:+80",
            "http://a:8o",
            "http://a:1:2",
            "http://[::1",
            "http://::1",
            "http://[::1]x",
            "http://[::1]:",
            "http://[1.2.3.4]",
            "http://[v1.x]",
            "http://[fe80::1%25eth0]",
            "http://1.2.3",
            "http://1.2.3.256",
            "http://a..b",
            "http://.a",
            "http://-a",
            "http://a-.b",
            "http://a*b",
            "http://a,b",
            "http://bücher.example",
            "http://a%41",
            "http://a\\b",
            "http://a/..",
            "http://a/../b",
            "http://a/./b",
            "http://a/b/%2e%2E/c",
            "http://a/.%2e",
            "http://a/%2e/",
            "http://a/b/..//",
            "http://user@a",
            "http://user:pass@a",
            "http://@a",
            "http://:@a:80/",
            &long_label,
            &long_name,
        ] {
            assert!(parse_base_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_easily_left_out_or_left_in_is_named() {
        for (text, part) in [
            ("api.openai.com", "put https:// before it"),
            ("api.openai.com/v1", "put https:// before it"),
            ("localhost:8080", "put https:// before it"),
            ("[::1]:8080/v1", "put https:// before it"),
            ("\"https://a\"", "without"),
            ("'https://a'", "without"),
            ("https//a", "not an http:// or https:// URL"),
            ("/v1", "not an http:// or https:// URL"),
            ("user:pass@a", "not an http:// or https:// URL"),
        ] {
            let fault = parse_base_url(text).err().unwrap_or_default();
            assert!(fault.contains(part), "{text} {fault}");
        }
    }

    #[test]
    fn neither_userinfo_nor_a_query_is_shown() {
        for text in [
            "http://canary@a",
            "http://u:canary@a/b",
            "http://u:can@canary@a",
            "ftp://u:canary@a",
            "http:/u:canary@a",
            "u:canary@a",
            "http://u:canary@a:99999",
            "http://u:ca#canary@a",
            "http://u:ca?canary@a",
            "http://u:ca/canary@a",
            "http://u: canary@a",
            "http://a/?key=canary",
            "http://a#canary",
            "http://a?x#canary",
            "//u:canary@a?canary",
            "http://a/?key=x@canary",
            "http://a/#x@canary/?",
        ] {
            assert!(
                !printable(text).contains("canary"),
                "{text}: {}",
                printable(text)
            );
            assert!(parse_base_url(text).is_err_and(|problem| !problem.contains("canary")));
        }
        assert_eq!(printable("ftp://host/path"), "ftp://host/path");
    }
}
