//! The PEM files of TLS: whom to trust, and who we are. What is in them is for net/ to judge.
use std::fmt::{self, Display};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::environment::{Environment, Read};
use super::{ClientCertificate, PemFile};

pub(super) const CA: &str = "UPSTREAM_CA_FILE";
const CERT: &str = "UPSTREAM_CLIENT_CERT_FILE";
const KEY: &str = "UPSTREAM_CLIENT_KEY_FILE";

/// `SSL_CERT_FILE` is what OpenSSL and its like read, so it is often set already.
pub(super) fn read_ca_file(env: &mut Environment) -> Read<Option<PemFile>> {
    for name in [CA, "SSL_CERT_FILE"] {
        if let Some(file) = read_pem_file(env, name)? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

pub(super) fn read_client_certificate(env: &mut Environment) -> Read<Option<ClientCertificate>> {
    let (chain, key) = (read_pem_file(env, CERT), read_pem_file(env, KEY));
    let lacks = |other: &str| {
        format!("is not set, and {other} is: set both, to the same file where it holds both")
    };
    match (chain?, key?) {
        (Some(chain), Some(key)) => Ok(Some(ClientCertificate { chain, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(env.fault_unseen(KEY, &lacks(CERT))),
        (None, Some(_)) => Err(env.fault_unseen(CERT, &lacks(KEY))),
    }
}

fn read_pem_file(env: &mut Environment, name: &'static str) -> Read<Option<PemFile>> {
    let Some(text) = env.text(name)? else {
        return Ok(None);
    };
    if text.contains("-----BEGIN") {
        let problem = "holds PEM itself (its value is not shown); it has to be the path of a file";
        return Err(env.fault_unseen(name, problem));
    }
    let path = PathBuf::from(&text);
    match check_readable(&path) {
        Ok(()) => Ok(Some(PemFile { name, path })),
        Err(error) => {
            let problem = format!("is not a PEM file that can be read: {error}");
            Err(env.fault(name, &text, problem))
        }
    }
}

/// Tells a mistyped path at the start, and in `--check`.
fn check_readable(path: &Path) -> io::Result<()> {
    // Asked first: opening a pipe without a writer blocks.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    File::open(path).map(drop)
}

/// As in a fault: the variable and its value.
impl Display for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}", self.name, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

    fn read<T>(
        variables: &[(&str, &str)],
        read: fn(&mut Environment) -> Read<T>,
    ) -> Result<T, Vec<String>> {
        let lookup = |name: &str| {
            let known = variables.iter().find(|(known, _)| *known == name);
            known.map(|(_, value)| OsString::from(value))
        };
        let read = Environment::read(&lookup, read);
        read.map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn roots_come_from_our_variable_or_else_from_the_common_one() {
        let named = |variables: &[(&str, &str)]| {
            let file = read(variables, read_ca_file)?;
            Ok(file.map(|file| file.to_string()))
        };
        let from = |name: &str| Ok::<_, Vec<String>>(Some(format!("{name}={MANIFEST:?}")));
        let (ours, common) = ((CA, MANIFEST), ("SSL_CERT_FILE", MANIFEST));
        assert_eq!(named(&[]), Ok(None));
        assert_eq!(named(&[ours, ("SSL_CERT_FILE", "/none")]), from(CA));
        assert_eq!(named(&[common]), from("SSL_CERT_FILE"));
        assert_eq!(named(&[(CA, " "), common]), from("SSL_CERT_FILE"));
        for (name, path) in [("SSL_CERT_FILE", "/none"), (CA, "/")] {
            let faults = named(&[(name, path)]).expect_err(path);
            let expected = format!("{name}=\"{path}\" is not a PEM file that can be read: ");
            assert!(faults[0].starts_with(&expected), "{faults:?}");
        }
    }

    #[test]
    fn certificate_and_key_are_set_both_or_neither() {
        let (cert, key) = ((CERT, MANIFEST), (KEY, MANIFEST));
        let is_set = |variables: &[(&str, &str)]| {
            let read = read(variables, read_client_certificate);
            read.map(|certificate| certificate.is_some())
        };
        assert_eq!(is_set(&[]), Ok(false));
        assert_eq!(is_set(&[cert, key]), Ok(true));
        for (set, missing) in [(cert, KEY), (key, CERT)] {
            let faults = is_set(&[set]).expect_err("one without the other");
            let expected = format!("{missing} is not set, and {} is", set.0);
            assert_eq!(faults.len(), 1);
            assert!(faults[0].starts_with(&expected), "{faults:?}");
        }
        let faults = is_set(&[(CERT, "/none"), (KEY, "/none")]);
        assert_eq!(faults.expect_err("neither is there").len(), 2);
    }

    #[test]
    fn a_key_in_place_of_its_path_is_not_shown() {
        let pasted = "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----";
        for name in [CERT, KEY] {
            let faults = read(&[(name, pasted)], read_client_certificate);
            let Err(faults) = faults else {
                panic!("a key was taken for a path");
            };
            assert!(faults[0].starts_with(&format!("{name} holds PEM itself")));
            assert!(!faults.concat().contains("canary"), "{faults:?}");
        }
    }
}
