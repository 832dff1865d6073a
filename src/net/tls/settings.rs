//! What every session starts from: whom it trusts, and what it shows where it is asked who we are.
use std::cell::Cell;
use std::fs;
use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, Error, RootCertStore, SignatureScheme};

use crate::config::{ClientCertificate, PemFile, Upstream};

/// Sessions remembered for resumption, of all cores together.
const SESSIONS_MAX: usize = 256;

/// What every session starts from; shared by all cores, so that each may resume another's session.
#[derive(Clone)]
pub struct TlsSettings {
    pub(super) config: Arc<ClientConfig>,
    /// What the certificate has to bear: a DNS name or an IP address.
    pub(super) name: ServerName<'static>,
    /// What the operator should be told at the start.
    pub warning: Option<String>,
}

impl TlsSettings {
    /// What an upstream needs, where it is `https://`. Files are read once, here.
    ///
    /// # Errors
    /// A line for each file that is at fault, naming its variable.
    pub fn of(upstream: &Upstream) -> Result<Option<Self>, Vec<String>> {
        if !upstream.tls {
            return Ok(None);
        }
        let host = &upstream.host;
        let name = ServerName::try_from(host.clone())
            .map_err(|_| format!("{host} is no DNS name or IP address"));
        let roots = roots(upstream.ca_file.as_ref());
        let shown = upstream
            .client_certificate
            .as_ref()
            .map(certified)
            .transpose();
        match (name, roots, shown) {
            (Ok(name), Ok((roots, warning)), Ok(shown)) => Ok(Some(Self {
                config: Arc::new(client_config(roots, shown)),
                name,
                warning,
            })),
            (name, roots, shown) => {
                let faults = [name.err(), roots.err(), shown.err()];
                Err(faults.into_iter().flatten().collect())
            }
        }
    }
}

fn client_config(roots: RootCertStore, shown: Option<Arc<CertifiedKey>>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(Identity(shown)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    config
}

/// The built-in roots and those of `file`, and a warning where not all of it is of use.
fn roots(file: Option<&PemFile>) -> Result<(RootCertStore, Option<String>), String> {
    let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let Some(file) = file else {
        return Ok((roots, None));
    };
    let certificates = certificates(file)?;
    // Bundles of a system hold certificates that are too odd to be used; one that can be is enough.
    match roots.add_parsable_certificates(certificates) {
        (0, _) => Err(format!("{file} holds no certificate that can be used")),
        (_, 0) => Ok((roots, None)),
        (added, ignored) => {
            let all = added + ignored;
            let warning = format!("{file}: {ignored} of {all} certificates cannot be used");
            Ok((roots, Some(warning)))
        }
    }
}

fn certified(own: &ClientCertificate) -> Result<Arc<CertifiedKey>, String> {
    let ClientCertificate { chain, key } = own;
    let certificates = certificates(chain)?;
    let der = private_key(key)?;
    let provider = rustls::crypto::ring::default_provider();
    let signing = provider.key_provider.load_private_key(der).map_err(|_| {
        format!("{key} holds a key that cannot be used: RSA of 2048 to 8192 bits, P-256, P-384 and Ed25519 can")
    })?;
    let certified = CertifiedKey::new(certificates, signing);
    match certified.keys_match() {
        Ok(()) => Ok(Arc::new(certified)),
        Err(Error::InconsistentKeys(_)) => Err(format!(
            "{key} holds another key than that of the first certificate in {chain}"
        )),
        Err(_) => Err(format!(
            "{chain} begins with a certificate that cannot be used"
        )),
    }
}

fn certificates(file: &PemFile) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!(
            "{file} holds no certificate in PEM (-----BEGIN CERTIFICATE-----); `openssl x509 -inform DER` \
             makes it of DER"
        )),
        Ok(found) => Ok(found),
        Err(error) => Err(damaged(file, &error)),
    }
}

fn private_key(file: &PemFile) -> Result<PrivateKeyDer<'static>, String> {
    let text = read(file)?;
    let has = |words: &[u8]| text.windows(words.len()).any(|window| window == words);
    match PrivateKeyDer::from_pem_slice(&text) {
        // PKCS #8 names it so, the older form has the field between its BEGIN and its base64.
        _ if has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED") => {
            Err(format!(
                "{file} holds a key that is encrypted: decrypt it (`openssl pkey -in FILE -out NEW`), and let \
                 nobody but this program read it"
            ))
        }
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(format!(
            "{file} holds no private key in PEM (-----BEGIN PRIVATE KEY-----, RSA PRIVATE KEY or EC PRIVATE KEY)"
        )),
        Err(error) => Err(damaged(file, &error)),
    }
}

/// Never shows what is in the file: it may be a key.
fn damaged(file: &PemFile, error: &pem::Error) -> String {
    let problem = match error {
        pem::Error::MissingSectionEnd { .. } => "lacks its -----END line",
        pem::Error::IllegalSectionStart { .. } => "begins with a damaged -----BEGIN line",
        _ => "is damaged in its base64",
    };
    format!("{file} is no PEM file: a part of it {problem}")
}

/// All of it, without the mark that some editors begin a text with: it would hide the first line.
fn read(file: &PemFile) -> Result<Vec<u8>, String> {
    let mut text =
        fs::read(&file.path).map_err(|error| format!("{file} cannot be read: {error}"))?;
    if text.starts_with("\u{feff}".as_bytes()) {
        text.drain(.."\u{feff}".len());
    }
    match text.trim_ascii() {
        [] => Err(format!("{file} is empty")),
        _ => Ok(text),
    }
}

/// Whether a peer has asked for a certificate, and has been shown one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    No,
    Shown,
    InVain,
}

thread_local! {
    /// The session says nothing of the question, so the answer to it is noted here, and taken up when
    /// the session has been fed.
    static ASKED: Cell<Asked> = const { Cell::new(Asked::No) };
}

impl Asked {
    /// This, or what the session that was just fed on this core has been asked.
    pub(super) fn or_now(self) -> Self {
        match ASKED.replace(Self::No) {
            Self::No => self,
            now => now,
        }
    }
}

/// Shows the certificate there is, whoever is said to be trusted to have issued it: the peer knows best.
#[derive(Debug)]
struct Identity(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        ASKED.set(match self.0 {
            Some(_) => Asked::Shown,
            None => Asked::InVain,
        });
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    #[test]
    fn roots_that_are_named_stand_beside_the_built_in_ones_whatever_names_them() {
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params
            .self_signed(&key.expect("a key"))
            .expect("a certificate")
            .pem();
        let path =
            std::env::temp_dir().join(format!("codex-reset-proxy-{}.pem", std::process::id()));
        fs::write(&path, pem).expect("room for a file");
        let built_in = webpki_roots::TLS_SERVER_ROOTS.len();
        for (name, count) in [
            (None, built_in),
            (Some("UPSTREAM_CA_FILE"), built_in + 1),
            (Some("SSL_CERT_FILE"), built_in + 1),
        ] {
            let file = name.map(|name| PemFile {
                name,
                path: path.clone(),
            });
            let (roots, warning) = roots(file.as_ref()).expect("a PEM file");
            assert_eq!((roots.len(), warning), (count, None));
        }
        fs::remove_file(&path).expect("it was written");
    }
}
