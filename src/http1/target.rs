//! The request-target (RFC 9112 3.2): what of it goes up, and whether it stays below the base path.
use memchr::{memchr2, memmem};

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

/// Whether the dot segments of `target` climb above the path it is appended to.
///
/// Upstreams differ: some decode `%2e`, some take `%2F` or `\` for a separator, some merge `//`. The
/// target climbs if it does for any of them.
pub fn climbs(target: &[u8]) -> bool {
    let path = memchr2(b'?', b'#', target).map_or(target, |end| &target[..end]);
    climbs_when(path, |byte| byte == b'/') || climbs_when(path, |byte| matches!(byte, b'/' | b'\\'))
}

fn climbs_when(path: &[u8], separates: impl Fn(u8) -> bool) -> bool {
    let backslash_too = separates(b'\\');
    let mut depth = 0_i64;
    let mut segment = Segment::default();
    let mut rest = path;
    while let Some((byte, after)) = decode_one(rest, backslash_too) {
        rest = after;
        if separates(byte) {
            depth += segment.end();
            segment = Segment::default();
            if depth < 0 {
                return true;
            }
        } else {
            segment.push(byte);
        }
    }
    depth + segment.end() < 0
}

/// The next byte with `%2e` decoded, and `%2f` and `%5c` too where they may separate.
fn decode_one(text: &[u8], separators_too: bool) -> Option<(u8, &[u8])> {
    match text {
        [b'%', b'2', b'e' | b'E', rest @ ..] => Some((b'.', rest)),
        [b'%', b'2', b'f' | b'F', rest @ ..] if separators_too => Some((b'/', rest)),
        [b'%', b'5', b'c' | b'C', rest @ ..] if separators_too => Some((b'\\', rest)),
        [byte, rest @ ..] => Some((*byte, rest)),
        [] => None,
    }
}

#[derive(Default)]
struct Segment {
    bytes: usize,
    dots: usize,
}

impl Segment {
    fn push(&mut self, byte: u8) {
        self.bytes += 1;
        self.dots += usize::from(byte == b'.');
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
        ] {
            assert!(!climbs(target.as_bytes()), "{target}");
        }
    }
}
