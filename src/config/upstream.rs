//! `UPSTREAM_*`: the origin, what is known about it and what goes with every request.
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::environment::{Environment, Read};
use super::{Upstream, base_url, credential};

/// More connections than this exceed the ports of one address many times over.
const CONNECTIONS_MAX: usize = 1_000_000;

pub(super) fn read(env: &mut Environment) -> Read<Upstream> {
    let url = base_url::read(env);
    let credential = credential::read(env);
    let ca_file = read_ca_file(env);
    let connections_max = env.number("UPSTREAM_MAX_CONNECTIONS", 0..=CONNECTIONS_MAX);
    let idle_timeout = env.seconds("UPSTREAM_IDLE_TIMEOUT_SECONDS");
    let url = url?;
    Ok(Upstream {
        socket: url.socket,
        tls: url.tls,
        host: url.host,
        port: url.port,
        authority: url.authority,
        path: url.path,
        credential: credential?,
        ca_file: ca_file?,
        connections_max: connections_max?,
        idle_timeout: idle_timeout?,
    })
}

/// `SSL_CERT_FILE` is what OpenSSL and its like read, so it is often set already.
fn read_ca_file(env: &mut Environment) -> Read<Option<PathBuf>> {
    for name in ["UPSTREAM_CA_FILE", "SSL_CERT_FILE"] {
        let Some(text) = env.text(name)? else {
            continue;
        };
        let path = PathBuf::from(&text);
        return match check_readable(&path) {
            Ok(()) => Ok(Some(path)),
            Err(error) => {
                let problem = format!("is not a PEM file that can be read: {error}");
                Err(env.fault(name, &text, problem))
            }
        };
    }
    Ok(None)
}

/// Tells a mistyped path at the start, and in `--check`; what is in the file is for net/ to judge.
fn check_readable(path: &Path) -> io::Result<()> {
    // Asked first: opening a pipe without a writer blocks.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    File::open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    #[test]
    fn roots_come_from_our_variable_or_else_from_the_common_one() {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let read = |variables: &[(&str, &str)]| {
            let lookup = |name: &str| {
                let known = variables.iter().find(|(known, _)| *known == name);
                known.map(|(_, value)| OsString::from(value))
            };
            let read = Environment::read(&lookup, read_ca_file);
            read.map_err(|faults| faults[0].to_string())
        };
        let ours = ("UPSTREAM_CA_FILE", manifest);
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(
            read(&[ours, ("SSL_CERT_FILE", "/none")]),
            Ok(Some(manifest.into()))
        );
        assert_eq!(
            read(&[("SSL_CERT_FILE", manifest)]),
            Ok(Some(manifest.into()))
        );
        for (name, path) in [("SSL_CERT_FILE", "/none"), ("UPSTREAM_CA_FILE", "/")] {
            let fault = read(&[(name, path)]).expect_err(path);
            assert!(
                fault.starts_with(&format!("{name}=\"{path}\" is not a PEM file")),
                "{fault}"
            );
        }
    }
}
