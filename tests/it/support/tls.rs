//! A certificate authority of the test's own, and servers that it vouches for.
use std::fs;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The authority's certificate as PEM, for UPSTREAM_CA_FILE.
    file: PathBuf,
    names: Vec<String>,
}

impl Authority {
    /// Vouches for 127.0.0.1 and localhost.
    pub fn new() -> Self {
        Self::of(&["127.0.0.1", "localhost"])
    }

    /// Vouches for these names.
    pub fn of(names: &[&str]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let name = "codex-reset-proxy test authority";
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("codex-reset-proxy-test-{}-{number}.pem", process::id());
        let file = std::env::temp_dir().join(name);
        fs::write(&file, issuer.pem()).unwrap();
        Self {
            issuer,
            file,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    pub fn file(&self) -> &str {
        self.file.to_str().unwrap()
    }

    /// A server's configuration: one for all its connections, so that sessions are resumed.
    pub fn server(&self) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(self.names.clone()).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}
