//! `UPSTREAM_*`: the origin, what is known about it and what goes with every request.
use super::environment::{Environment, Read};
use super::{Upstream, base_url, certificates, credential};

/// More connections than this exceed the ports of one address many times over.
const CONNECTIONS_MAX: usize = 1_000_000;

pub(super) fn read(env: &mut Environment) -> Read<Upstream> {
    let url = base_url::read(env);
    let credential = credential::read(env);
    let ca_file = certificates::read_ca_file(env);
    let client_certificate = certificates::read_client_certificate(env);
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
        client_certificate: client_certificate?,
        connections_max: connections_max?,
        idle_timeout: idle_timeout?,
    })
}

impl Upstream {
    /// What is set in vain, if it is likely to be a mistake.
    pub(super) fn warning(&self) -> Option<String> {
        // SSL_CERT_FILE is set for other programs too.
        let trusted = self
            .ca_file
            .as_ref()
            .filter(|file| file.name == certificates::CA);
        let own = (self.client_certificate.as_ref()).map(|certificate| &certificate.chain);
        let in_vain = trusted.or(own).filter(|_| !self.tls)?;
        Some(format!(
            "{} is not used: UPSTREAM_BASE_URL is not https://, so nothing is encrypted, and no certificate \
             is checked or shown",
            in_vain.name
        ))
    }
}
