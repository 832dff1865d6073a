//! CONNECT, the client's side, as functions on bytes: RFC 9110 9.3.6, and RFC 7617 for user and password.
use crate::config::Login;
use crate::http1::head::{Scan, with_response};
use crate::upstream::outbound::{Answer, Fault, Refused, Target};

/// Asks for a connection to `target`.
pub(super) fn request(target: &Target, login: Option<&Login>) -> Vec<u8> {
    let authority = match target {
        Target::Address(addr) => addr.to_string(),
        Target::Name(name, port) => format!("{name}:{port}"),
    };
    let mut message = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
    if let Some(Login { user, password }) = login {
        message.extend_from_slice(b"Proxy-Authorization: Basic ");
        let both = [user.expose(), b":", password.expose()].concat();
        message.extend_from_slice(&base64(&both));
        message.extend_from_slice(b"\r\n");
    }
    message.extend_from_slice(b"\r\n");
    message
}

/// Whether there is a connection. Interim responses are passed over. Behind a 2xx the stream begins,
/// whatever its head says of a length or a transfer coding.
pub(super) fn connected(received: &[u8], login: bool) -> Answer<()> {
    let mut start = 0;
    loop {
        let rest = &received[start..];
        if !b"HTTP/1.".starts_with(&rest[..rest.len().min(7)]) {
            return Err(Fault::Garbage("it does not start with HTTP/1."));
        }
        let scanned = Scan::default().head_length(rest);
        let Some(length) = scanned.map_err(|fault| Fault::Garbage(fault.reason()))? else {
            return Ok(None);
        };
        let status = with_response(&rest[..length], |head| head.status);
        start += length;
        match status.map_err(|fault| Fault::Garbage(fault.reason()))? {
            101 => return Err(Fault::Garbage("it switches protocols")),
            100..200 => (),
            200..300 => return Ok(Some(((), start))),
            // Some say 401 of a login that is wrong.
            401 | 407 if login => return Err(Fault::Refused(Refused::Login)),
            401 | 407 => return Err(Fault::Refused(Refused::LoginWanted)),
            status => return Err(Fault::Refused(Refused::Status(status))),
        }
    }
}

/// Whether another try may fare better.
pub(super) fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 429) || (500..600).contains(&status) && status != 501
}

/// RFC 4648 4.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = Vec::new();
    for three in bytes.chunks(3) {
        let at = |at: usize| u32::from(three.get(at).copied().unwrap_or_default());
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let digits = [18, 12, 6, 0].map(|shift| ALPHABET[(bits >> shift & 63) as usize]);
        encoded.extend_from_slice(&digits[..=three.len()]);
        encoded.resize(encoded.len().next_multiple_of(4), b'=');
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn what_we_ask_for_is_an_authority_in_both_places() {
        for (target, authority) in [
            (
                Target::Address("192.0.2.1:443".parse().unwrap()),
                "192.0.2.1:443",
            ),
            (Target::Address("[::1]:80".parse().unwrap()), "[::1]:80"),
            (
                Target::Name("api.example".to_owned(), 443),
                "api.example:443",
            ),
        ] {
            let expected = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
            assert_eq!(request(&target, None), expected.as_bytes());
        }
        // The example of RFC 7617 2.
        let login = Login {
            user: Secret::new("Aladdin"),
            password: Secret::new("open sesame"),
        };
        let asked = request(&Target::Name("h".to_owned(), 1), Some(&login));
        let expected = "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\
                        Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&asked), expected);
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), encoded.as_bytes());
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xbf]), b"+/+/");
    }

    #[test]
    fn a_2xx_ends_with_its_head_whatever_it_says_of_a_body() {
        for head in [
            "HTTP/1.1 200 Connection established\r\n\r\n",
            "HTTP/1.0 200 OK\r\nProxy-agent: tinyproxy/1.11\r\n\r\n",
            "HTTP/1.1 200\r\n\r\n",
            "HTTP/1.1 299 x\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            let bytes = head.as_bytes();
            for end in 0..bytes.len() {
                assert_eq!(connected(&bytes[..end], true), Ok(None), "{end} of {head}");
            }
            assert_eq!(connected(bytes, true), Ok(Some(((), bytes.len()))));
            let more = [bytes, b"5\r\nHTTP/1.1 500 x\r\n\r\n"].concat();
            assert_eq!(connected(&more, true), Ok(Some(((), bytes.len()))));
        }
    }

    #[test]
    fn anything_but_a_2xx_is_a_refusal() {
        for status in (100..=999).filter(|status| !(100..300).contains(status)) {
            let head = format!("HTTP/1.1 {status} x\r\nContent-Length: 3\r\n\r\n");
            for login in [false, true] {
                let refused = match (status, login) {
                    (401 | 407, true) => Refused::Login,
                    (401 | 407, false) => Refused::LoginWanted,
                    _ => Refused::Status(status),
                };
                let told = connected(head.as_bytes(), login);
                assert_eq!(told, Err(Fault::Refused(refused)));
            }
        }
        assert!(
            [408, 429, 500, 502, 503, 504, 599]
                .into_iter()
                .all(may_pass)
        );
        assert!(
            ![301, 400, 401, 403, 404, 405, 501, 600]
                .into_iter()
                .any(may_pass)
        );
    }

    #[test]
    fn what_is_no_http_is_told_at_once() {
        for text in [
            "\x05\x00",
            "SSH-2.0-x",
            "HTTP/2",
            "http/1.1",
            "HTTP/1.1 20x OK\r\n\r\n",
            "HTTP/1.9 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
            "HTTP/1.1 200 OK\r\nno field\r\n\r\n",
            "HTTP/1.1 101 Switching\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nx",
            "HTTP/1.1 099 x\r\n\r\n",
        ] {
            let told = connected(text.as_bytes(), false);
            assert!(matches!(told, Err(Fault::Garbage(_))), "{text}: {told:?}");
        }
    }
}
