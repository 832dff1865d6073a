//! The field that carries `UPSTREAM_API_KEY`: its name, its prefix and the key, each fit for a header section.
use super::environment::{Environment, Read};
use super::settings::default_of;
use super::{Credential, Secret};

/// Fields that say how the message is framed or where it goes: a key in one of them breaks the
/// message. Framing and hop-by-hop fields are RFC 9110 7.6.1 and 9112 6; `Expect` is answered here.
const RESERVED_FIELDS: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
];

/// The fields that this program itself writes.
const OWN_FIELDS: &str = "x-codex-reset-proxy-";

/// Name and prefix are checked without a key too: they are no less wrong.
pub(super) fn read(env: &mut Environment) -> Read<Option<Credential>> {
    let name = read_field_name(env);
    let prefix = read_prefix(env);
    let key = env.secret("UPSTREAM_API_KEY");
    let (name, prefix) = (name?, prefix?);
    Ok(key?.map(|key| {
        let value = Secret::new([prefix.as_bytes(), key.expose()].concat());
        Credential {
            name,
            prefix,
            value,
        }
    }))
}

fn read_field_name(env: &mut Environment) -> Read<String> {
    const NAME: &str = "UPSTREAM_API_KEY_HEADER";
    let text = env.text_or_default(NAME)?;
    let lower = text.to_ascii_lowercase();
    let problem = if !text.bytes().all(is_token_byte) {
        "is not a field name: letters, digits and !#$%&'*+-.^_`|~ are allowed"
    } else if RESERVED_FIELDS.contains(&lower.as_str()) || lower.starts_with(OWN_FIELDS) {
        "is a field that the proxy itself governs; name another, such as Authorization or x-api-key"
    } else {
        return Ok(text);
    };
    Err(env.fault(NAME, &text, problem.to_owned()))
}

/// RFC 9110 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The one variable where empty differs from unset, and where a space at the end counts.
fn read_prefix(env: &mut Environment) -> Read<String> {
    const NAME: &str = "UPSTREAM_API_KEY_PREFIX";
    let mut prefix = env
        .verbatim(NAME)?
        .unwrap_or_else(|| default_of(NAME).to_owned());
    // RFC 9110 5.5: a field's value neither holds a control character nor begins with white space.
    if prefix.contains(char::is_control) || prefix.starts_with(char::is_whitespace) {
        let problem = "begins with white space or holds a control character; neither is allowed \
                       in a field's value";
        return Err(env.fault(NAME, &prefix, problem.to_owned()));
    }
    let scheme = ["Bearer", "Basic", "Token"];
    if scheme.iter().any(|name| prefix.eq_ignore_ascii_case(name)) {
        prefix.push(' ');
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn credential(variables: &[(&str, &str)]) -> Result<Option<(String, String)>, String> {
        let lookup = |name: &str| {
            let known = variables.iter().find(|(known, _)| *known == name);
            known.map(|(_, value)| OsString::from(value))
        };
        let read = Environment::read(&lookup, read);
        let credential = read.map_err(|faults| faults[0].to_string())?;
        Ok(credential.map(|credential| {
            let value = String::from_utf8_lossy(credential.value.expose()).into_owned();
            (credential.name, value)
        }))
    }

    #[test]
    fn the_prefix_has_its_space_and_empty_means_none() {
        for (prefix, value) in [
            (None, "Bearer k"),
            (Some(""), "k"),
            (Some("Bearer "), "Bearer k"),
            (Some("Bearer"), "Bearer k"),
            (Some("bearer"), "bearer k"),
            (Some("TOKEN"), "TOKEN k"),
            (Some("Basic"), "Basic k"),
            (Some("Bearer  "), "Bearer  k"),
            (Some("Key="), "Key=k"),
        ] {
            let mut variables = vec![("UPSTREAM_API_KEY", "k")];
            variables.extend(prefix.map(|prefix| ("UPSTREAM_API_KEY_PREFIX", prefix)));
            let expected = ("Authorization".to_owned(), value.to_owned());
            assert_eq!(credential(&variables), Ok(Some(expected)), "{prefix:?}");
        }
    }

    #[test]
    fn without_a_key_there_is_no_credential_yet_its_parts_are_checked() {
        for key in ["", " ", "\n"] {
            assert_eq!(credential(&[("UPSTREAM_API_KEY", key)]), Ok(None));
        }
        assert_eq!(
            credential(&[("UPSTREAM_API_KEY_HEADER", "x-api-key")]),
            Ok(None)
        );
        assert!(credential(&[("UPSTREAM_API_KEY_HEADER", "a b")]).is_err());
        assert!(credential(&[("UPSTREAM_API_KEY_PREFIX", "a\nb")]).is_err());
    }

    #[test]
    fn a_key_loses_white_space_around_it_and_may_hold_no_control_character() {
        let value = credential(&[
            ("UPSTREAM_API_KEY", " sk-1\r\n"),
            ("UPSTREAM_API_KEY_PREFIX", ""),
        ]);
        assert_eq!(
            value,
            Ok(Some(("Authorization".to_owned(), "sk-1".to_owned())))
        );
        for key in [
            "can\nary",
            "can\rary",
            "can\0ary",
            "can\tary",
            "can\u{7f}ary",
            "can\u{85}ary",
        ] {
            let Err(fault) = credential(&[("UPSTREAM_API_KEY", key)]) else {
                panic!("{key:?} was taken");
            };
            assert!(!fault.contains("ary"), "{fault}");
            assert!(
                fault.starts_with("UPSTREAM_API_KEY holds a control character"),
                "{fault}"
            );
        }
    }

    #[test]
    fn a_key_cannot_be_written_to_a_field_that_governs_the_message() {
        for name in [
            "Host",
            "content-length",
            "TRANSFER-ENCODING",
            "Connection",
            "Keep-Alive",
            "TE",
            "Trailer",
            "Proxy-Connection",
            "Upgrade",
            "Expect",
            "X-Codex-Reset-Proxy-Attempts",
            "a:",
            "a b",
            "é",
            "a\nb",
            "(a)",
        ] {
            assert!(
                credential(&[("UPSTREAM_API_KEY_HEADER", name)]).is_err(),
                "{name}"
            );
        }
        for name in [
            "x-api-key",
            "Authorization",
            "api_key",
            "Proxy-Authorization",
        ] {
            assert_eq!(
                credential(&[("UPSTREAM_API_KEY_HEADER", name)]),
                Ok(None),
                "{name}"
            );
        }
    }
}
