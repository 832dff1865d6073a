//! Certificates for the origin's TLS side.
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

/// A new CA and a certificate for `localhost` and 127.0.0.1; the CA's PEM is written to `ca_file`.
pub fn server_config(ca_file: &Path) -> io::Result<Arc<ServerConfig>> {
    let mut params = named("Bench CA", &[]).map_err(io::Error::other)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = || KeyPair::generate().map_err(io::Error::other);
    let ca = CertifiedIssuer::self_signed(params, key()?).map_err(io::Error::other)?;

    let server_key = key()?;
    let server = named("Bench origin", &["localhost", "127.0.0.1"])
        .and_then(|params| params.signed_by(&server_key, &ca))
        .map_err(io::Error::other)?;
    fs::write(ca_file, ca.pem())?;

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::Pkcs8(server_key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn named(name: &str, hosts: &[&str]) -> Result<CertificateParams, rcgen::Error> {
    let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}
