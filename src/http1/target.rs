//! The request-target (RFC 9112 3.2): what of it goes up, whether it stays below the base path, and whose
//! name it is asked under.
use std::net::IpAddr;

use memchr::{memchr, memchr2, memmem};

/// The origin-form of a request-target as it goes up: the target itself, or what follows the
/// authority of an absolute-form. `None` for what no origin can be asked: an authority-form, or
/// anything else that starts with neither `/` nor a scheme.
///
/// `*` (RFC 9112 3.2.4) stays `*`.
pub fn origin_form(target: &[u8]) -> Option<&[u8]> {
    if matches!(target, b"*" | [b'/', ..]) {
        return Some(target);
    }
    let scheme_end = memmem::find(target, b"://")?;
    let scheme = &target[..scheme_end];
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return None;
    }
    let rest = &target[scheme_end + 3..];
    let authority_end = memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    match &rest[authority_end..] {
        _ if authority_end == 0 => None,
        [] => Some(b"/"),
        path @ [b'/', ..] => Some(path),
        // A query without a path would need a `/` that the client did not write.
        _ => None,
    }
}

/// What upstreams take for the end of a segment: some decode `%2F` before they resolve dot segments,
/// some take `\` for `/`. One separator more can lead deeper as well as higher.
const SEPARATORS: [&[&str]; 6] = [
    &["/"],
    &["/", "%2f"],
    &["/", "\\"],
    &["/", "\\", "%5c"],
    &["/", "\\", "%2f"],
    &["/", "\\", "%2f", "%5c"],
];

/// Whether the dot segments of `target` climb above the path it is appended to.
///
/// Upstreams differ, see `SEPARATORS`; some decode `%2e`, some merge `//`, some strip a segment's
/// parameters, some end the path at `#`. The target climbs if it does for any of them.
pub fn climbs(target: &[u8]) -> bool {
    let path = memchr(b'?', target).map_or(target, |end| &target[..end]);
    SEPARATORS
        .iter()
        .any(|separators| climbs_when(path, separators))
}

fn climbs_when(path: &[u8], separators: &[&str]) -> bool {
    let mut depth = 0_i64;
    let mut segment = Segment::default();
    let mut rest = path;
    while let [first, after @ ..] = rest {
        if let Some(separator) = separators.iter().find(|text| starts_with(rest, text)) {
            rest = &rest[separator.len()..];
            depth += segment.end();
            segment = Segment::default();
            if depth < 0 {
                return true;
            }
        } else if starts_with(rest, "%2e") {
            rest = &rest[3..];
            segment.push(b'.');
        } else {
            rest = after;
            segment.push(*first);
        }
    }
    depth + segment.end() < 0
}

fn starts_with(text: &[u8], start: &str) -> bool {
    text.get(..start.len())
        .is_some_and(|text| text.eq_ignore_ascii_case(start.as_bytes()))
}

#[derive(Default)]
struct Segment {
    bytes: usize,
    dots: usize,
    cut: bool,
}

impl Segment {
    /// Without what follows `;` or `#` a segment never leads deeper than with it.
    fn push(&mut self, byte: u8) {
        self.cut |= matches!(byte, b';' | b'#');
        if !self.cut {
            self.bytes += 1;
            self.dots += usize::from(byte == b'.');
        }
    }

    /// How the depth changes: an empty segment may be merged away, so it adds nothing.
    fn end(&self) -> i64 {
        match (self.bytes, self.dots) {
            (0, _) | (1, 1) => 0,
            (2, 2) => -1,
            _ => 1,
        }
    }
}

/// Whether the value of a Host field is a name that its owner may point at any machine: neither an IP
/// address nor one of those that RFC 6761 6.3 keeps for loopback.
pub fn is_foreign_name(host: &[u8]) -> bool {
    let Ok(host) = str::from_utf8(host) else {
        return true;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let top = name.rsplit('.').next().unwrap_or_default();
    let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
    address.is_err() && !top.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_goes_up_as_it_came() {
        for target in ["/", "//x", "/a?", "/a%2Fb?c={}", "/\u{e9}", "*", "/../x"] {
            assert_eq!(origin_form(target.as_bytes()), Some(target.as_bytes()));
        }
    }

    #[test]
    fn an_absolute_form_loses_its_authority() {
        for (target, origin) in [
            ("http://h", Some("/")),
            ("HTTPS://u@h:1/a//b?c", Some("/a//b?c")),
            ("http://h?c", None),
            ("http:///a", None),
            ("ftp://h/a", None),
            ("h:443", None),
            ("a", None),
            ("?a", None),
        ] {
            let found = origin_form(target.as_bytes());
            assert_eq!(found, origin.map(str::as_bytes), "{target}");
        }
    }

    #[test]
    fn climbing_is_seen_however_it_is_written() {
        for target in [
            "/..",
            "/../x",
            "/a/../..",
            "/%2e%2E/x",
            "/.%2e",
            "/a/../../b",
            "//../..",
            "/a//../../x",
            "/..%2fx",
            "/..\\x",
            "/a%2fb/../../x",
            "/%2e%2e%5cx",
            "/a\\..\\..\\..\\x",
            "/./..",
            "/a\\b%2f..%2f../x",
            "/a%2fb\\..\\..\\x",
            "/a%5Cb\\..\\..\\x",
            "/..;a=b/x",
            "/..#",
            "/#/../x",
        ] {
            assert!(climbs(target.as_bytes()), "{target}");
        }
        for target in [
            "/",
            "/a/..",
            "/a/b/../..",
            "/...",
            "/a/./b",
            "/..a",
            "/a..",
            "/?/../..",
            "/a?x=../..",
            "/%2e",
            "/a%2e%2e",
            "/a;b/..",
            "/a#/..",
        ] {
            assert!(!climbs(target.as_bytes()), "{target}");
        }
    }

    #[test]
    fn a_name_is_foreign_unless_nobody_can_point_it_elsewhere() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9788",
            "[::1]",
            "[::1]:9788",
            "localhost",
            "LOCALHOST:9788",
            "a.localhost:",
        ] {
            assert!(!is_foreign_name(host.as_bytes()), "{host}");
        }
        for host in [
            "a.example",
            "a.example:9788",
            "localhost.a.example",
            "127.0.0.1.a.example",
            "notlocalhost",
            "localhost:a.example",
            "",
        ] {
            assert!(is_foreign_name(host.as_bytes()), "{host}");
        }
    }
}
