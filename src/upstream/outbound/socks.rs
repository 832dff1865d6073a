//! SOCKS 5, the client's side, as functions on bytes: RFC 1928, and RFC 1929 for user and password.
use std::net::IpAddr;

use crate::config::Login;
use crate::upstream::outbound::{Answer, Fault, Refused, Target};

const VERSION: u8 = 5;
/// RFC 1928 3.
const NO_LOGIN: u8 = 0;
const LOGIN: u8 = 2;
const NO_METHOD: u8 = 0xff;
/// RFC 1928 4 and 5.
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// The methods we offer.
pub(super) fn greeting(login: bool) -> Vec<u8> {
    match login {
        true => vec![VERSION, 2, NO_LOGIN, LOGIN],
        false => vec![VERSION, 1, NO_LOGIN],
    }
}

/// User and password, each of which the settings keep to 255 bytes.
pub(super) fn login(login: &Login) -> Vec<u8> {
    let mut message = vec![1]; // the version of RFC 1929
    for part in [&login.user, &login.password] {
        message.push(length(part.expose()));
        message.extend_from_slice(part.expose());
    }
    message
}

/// Asks for a connection to `target`, whose name the settings keep to 254 bytes.
pub(super) fn request(target: &Target) -> Vec<u8> {
    let mut message = vec![VERSION, CONNECT, 0];
    match target {
        Target::Address(addr) => match addr.ip() {
            IpAddr::V4(ip) => {
                message.push(IPV4);
                message.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                message.push(IPV6);
                message.extend_from_slice(&ip.octets());
            }
        },
        Target::Name(name, _) => {
            message.extend_from_slice(&[NAME, length(name.as_bytes())]);
            message.extend_from_slice(name.as_bytes());
        }
    }
    message.extend_from_slice(&target.port().to_be_bytes());
    message
}

fn length(part: &[u8]) -> u8 {
    u8::try_from(part.len()).expect("the settings are checked")
}

/// The method that was chosen: whether it wants user and password, which were `offered` or not.
pub(super) fn chosen(received: &[u8], offered: bool) -> Answer<bool> {
    let Some(method) = second_byte(received, VERSION)? else {
        return Ok(None);
    };
    match method {
        NO_LOGIN => Ok(Some((false, 2))),
        LOGIN if offered => Ok(Some((true, 2))),
        NO_METHOD => Err(Fault::Refused(match offered {
            true => Refused::Login,
            false => Refused::LoginWanted,
        })),
        _ => Err(Fault::Garbage("it chose a method that was not offered")),
    }
}

/// Whether user and password are right.
pub(super) fn admitted(received: &[u8]) -> Answer<()> {
    match second_byte(received, 1)? {
        Some(0) => Ok(Some(((), 2))),
        Some(_) => Err(Fault::Refused(Refused::Login)),
        None => Ok(None),
    }
}

/// Whether there is a connection. Where there is none, what follows the code does not matter, and some
/// leave it out.
pub(super) fn connected(received: &[u8]) -> Answer<()> {
    match second_byte(received, VERSION)? {
        Some(0) => (),
        Some(code) => return Err(Fault::Refused(Refused::Socks(code))),
        None => return Ok(None),
    }
    let address_bytes = match received.get(3..) {
        Some([IPV4, ..]) => 4,
        Some([IPV6, ..]) => 16,
        Some([NAME, length, ..]) => 1 + usize::from(*length),
        Some([NAME] | []) | None => return Ok(None),
        Some(_) => return Err(Fault::Garbage("its address is of an unknown type")),
    };
    let length = 4 + address_bytes + 2;
    Ok((received.len() >= length).then_some(((), length)))
}

/// Every message of the proxy begins with a version and a byte that says it all.
fn second_byte(received: &[u8], version: u8) -> Result<Option<u8>, Fault> {
    match received.first() {
        Some(first) if *first != version => Err(Fault::Garbage("it is no SOCKS 5")),
        _ => Ok(received.get(1).copied()),
    }
}

/// RFC 1928 6: a code in words, and whether another try may fare better.
pub(super) fn meaning(code: u8) -> (&'static str, bool) {
    match code {
        1 => ("general failure", true),
        2 => ("not allowed by its rules", false),
        3 => ("network unreachable", true),
        4 => ("host unreachable", true),
        5 => ("the upstream refused the connection", true),
        6 => ("TTL expired", true),
        7 => ("command not supported", false),
        8 => ("address type not supported", false),
        _ => ("unknown reason", true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    /// What a parser says of every beginning of `message` and of what is behind it.
    fn at_every_length<T: PartialEq + std::fmt::Debug>(
        message: &[u8],
        parse: impl Fn(&[u8]) -> Answer<T>,
        expected: T,
    ) {
        let expected = Ok(Some((expected, message.len())));
        for end in 0..message.len() {
            assert_eq!(parse(&message[..end]), Ok(None), "{:?}", &message[..end]);
        }
        assert_eq!(parse(message), expected);
        let more = [message, b"\x05\x00HTTP/1.1"].concat();
        assert_eq!(parse(&more), expected);
    }

    #[test]
    fn what_we_say_is_that_of_the_rfcs() {
        assert_eq!(greeting(false), [5, 1, 0]);
        assert_eq!(greeting(true), [5, 2, 0, 2]);
        let login = |user: &str, password: &str| Login {
            user: Secret::new(user),
            password: Secret::new(password),
        };
        assert_eq!(super::login(&login("user", "pw")), b"\x01\x04user\x02pw");
        assert_eq!(super::login(&login("u", "")), b"\x01\x01u\x00");
        let long = super::login(&login("u", &"p".repeat(255)));
        assert_eq!((long.len(), long[3]), (259, 255));
        let v4 = Target::Address("192.0.2.1:443".parse().unwrap());
        assert_eq!(request(&v4), b"\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb");
        let v6 = Target::Address("[2001:db8::1]:80".parse().unwrap());
        let expected = b"\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50";
        assert_eq!(request(&v6), expected);
        let name = Target::Name("api.example".to_owned(), 8443);
        assert_eq!(request(&name), b"\x05\x01\x00\x03\x0bapi.example\x20\xfb");
    }

    #[test]
    fn a_method_is_one_that_was_offered() {
        at_every_length(&[5, 0], |it| chosen(it, false), false);
        at_every_length(&[5, 0], |it| chosen(it, true), false);
        at_every_length(&[5, 2], |it| chosen(it, true), true);
        let refused = |fault| Err(Fault::Refused(fault));
        assert_eq!(chosen(&[5, 0xff], false), refused(Refused::LoginWanted));
        assert_eq!(chosen(&[5, 0xff], true), refused(Refused::Login));
        for (first, second, offered) in [(5, 2, false), (5, 1, true), (5, 3, true), (5, 0x80, true)]
        {
            let fault = chosen(&[first, second], offered);
            assert!(matches!(fault, Err(Fault::Garbage(_))), "{fault:?}");
        }
    }

    #[test]
    fn any_status_but_zero_refuses_a_login() {
        at_every_length(&[1, 0], admitted, ());
        for status in 1..=255 {
            let refused = Err(Fault::Refused(Refused::Login));
            assert_eq!(admitted(&[1, status]), refused);
        }
    }

    #[test]
    fn a_message_of_another_version_is_told_by_its_first_byte() {
        for first in 0..=255 {
            let garbage = Err(Fault::Garbage("it is no SOCKS 5"));
            if first != 5 {
                assert_eq!(chosen(&[first], true).map(drop), garbage);
                assert_eq!(connected(&[first]).map(drop), garbage);
            }
            if first != 1 {
                assert_eq!(admitted(&[first]).map(drop), garbage);
            }
        }
    }

    #[test]
    fn a_reply_ends_with_its_address_whatever_its_type() {
        for (kind, address) in [
            (IPV4, vec![1; 4]),
            (IPV6, vec![2; 16]),
            (NAME, vec![0]),
            (NAME, [&[11][..], b"api.example"].concat()),
            (NAME, [&[255][..], &[b'x'; 255]].concat()),
        ] {
            for reserved in [0, 7] {
                let head = [5, 0, reserved, kind];
                let reply = [&head[..], &address, &[0, 80]].concat();
                at_every_length(&reply, connected, ());
            }
        }
        for kind in (0..=255).filter(|kind| ![IPV4, NAME, IPV6].contains(kind)) {
            let fault = connected(&[5, 0, 0, kind]);
            assert!(matches!(fault, Err(Fault::Garbage(_))), "{kind}: {fault:?}");
        }
    }

    #[test]
    fn a_refusal_is_known_by_its_code_alone() {
        for code in 1..=255 {
            let refused = Err(Fault::Refused(Refused::Socks(code)));
            assert_eq!(connected(&[5, code]), refused);
            let whole = [5, code, 0, 1, 0, 0, 0, 0, 0, 0];
            assert_eq!(connected(&whole), refused);
        }
    }
}
