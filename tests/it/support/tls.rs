//! A certificate authority of the test's own, and servers and clients that it vouches for.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::Folder;

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    names: Vec<String>,
    _folder: Folder,
    /// The authority's certificate as PEM, for UPSTREAM_CA_FILE.
    file: String,
}

/// A certificate and its key.
pub struct Issued {
    pub certificate: Certificate,
    pub key: KeyPair,
}

impl Authority {
    /// Vouches for 127.0.0.1 and localhost.
    pub fn new() -> Self {
        Self::of(&["127.0.0.1", "localhost"])
    }

    /// Vouches for these names.
    pub fn of(names: &[&str]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        // Each has a name of its own, or one would be blamed for what another has signed.
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("codex-reset-proxy test authority {number}"), names)
    }

    /// The same by the name `own`.
    pub fn named(own: &str, names: &[&str]) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, own);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = Folder::new();
        Self {
            file: folder.write("ca.pem", issuer.pem()),
            _folder: folder,
            issuer,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for its names, with whatever else `changed` says.
    pub fn issue(&self, changed: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new(self.names.clone()).unwrap();
        changed(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { certificate, key }
    }

    /// A server's configuration: one for all its connections, so that sessions are resumed.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.issue(|_| ()).server()
    }
}

impl Issued {
    /// A server that shows it.
    pub fn server(self) -> Arc<ServerConfig> {
        self.server_by(rustls::ALL_VERSIONS, None)
    }

    /// The same by these versions of TLS; it wants a certificate that `asking` has issued.
    pub fn server_by(
        self,
        versions: &[&'static SupportedProtocolVersion],
        asking: Option<&Authority>,
    ) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .unwrap();
        let builder = match asking {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.issuer.der().clone()).unwrap();
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let chain = vec![self.certificate.der().clone()];
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// A certificate in a file with its key, for UPSTREAM_CLIENT_CERT_FILE and UPSTREAM_CLIENT_KEY_FILE.
pub struct Shown {
    file: String,
    _folder: Folder,
}

impl Shown {
    pub fn new(issued: &Issued) -> Self {
        let folder = Folder::new();
        let both = issued.key.serialize_pem() + &issued.certificate.pem();
        Self {
            file: folder.write("both.pem", both),
            _folder: folder,
        }
    }

    pub fn settings(&self) -> [(&str, &str); 2] {
        [
            ("UPSTREAM_CLIENT_CERT_FILE", &self.file),
            ("UPSTREAM_CLIENT_KEY_FILE", &self.file),
        ]
    }
}
