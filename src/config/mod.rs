//! The environment as settings: parsed one variable at a time, bounded, every fault reported at once.
//!
//! `settings` is the table of all variables; `read` makes a `Config` of them, with `upstream` for where
//! requests go (`base_url`, `credential`, `certificates`, `outbound`), `addresses` for where to listen and
//! `environment` for one variable; `effective` writes a `Config` back for people.
mod addresses;
mod base_url;
mod certificates;
mod credential;
mod effective;
mod environment;
mod outbound;
mod read;
mod settings;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

pub use self::addresses::listen_from_env;
pub use self::environment::Fault;
pub use self::settings::{SETTINGS, Setting};

/// Everything a worker needs to know, checked. Cloned into each worker.
#[derive(Clone)]
pub struct Config {
    /// Where clients come in.
    pub listen: Listen,
    /// Where the admin listener is, if there is to be one.
    pub admin: Option<SocketAddr>,
    /// Whether both may be somebody else's as well.
    pub reuse_port: bool,
    /// Threads, each with a runtime and a listener of its own.
    pub workers: usize,
    /// Where requests go.
    pub upstream: Upstream,
    /// What they go through, if not straight there.
    pub outbound: Option<Outbound>,
    /// How often and how long to try.
    pub attempts: Attempts,
    /// What a client may send, and how slowly.
    pub client: ClientLimits,
    /// Connections of clients, of all workers together.
    pub client_connections_max: u64,
    /// Request bodies held at the same time, of all workers together, in bytes.
    pub buffered_bytes_max: u64,
    /// What a client has to present, if anything.
    pub access_token: Option<Secret>,
    /// Silence between two reads of a response body that aborts it; `None` = no limit.
    pub stream_idle_timeout: Option<Duration>,
    /// How long streams may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// Where to listen. Its `Display` is what people are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Port 0 lets the kernel choose one.
    Tcp(SocketAddr),
    /// The path of a socket in the file system.
    Unix(PathBuf),
}

/// `UPSTREAM_*`: the origin and what is known about it.
#[derive(Clone)]
pub struct Upstream {
    /// The path of the socket that it listens on; there is no host then but `localhost`, for `Host`.
    pub socket: Option<PathBuf>,
    /// `https://` or `http://`.
    pub tls: bool,
    /// Host without port, an IPv6 address without brackets.
    pub host: String,
    /// The port of the URL or the scheme's default.
    pub port: u16,
    /// What `Host` says: the URL's authority as written, without userinfo.
    pub authority: String,
    /// The URL's path without a trailing slash; empty where it has none.
    pub path: String,
    /// The field that replaces the client's own, when a key is set.
    pub credential: Option<Credential>,
    /// Roots added to the built-in ones.
    pub ca_file: Option<PemFile>,
    /// What an upstream is shown that asks for a certificate.
    pub client_certificate: Option<ClientCertificate>,
    /// Connections of the whole process; 0 = no limit.
    pub connections_max: usize,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
}

/// A PEM file that can be read, and the variable that names it. Its `Display` says both.
#[derive(Clone)]
#[allow(missing_docs, reason = "the names say it")]
pub struct PemFile {
    pub name: &'static str,
    pub path: PathBuf,
}

/// `UPSTREAM_CLIENT_CERT_FILE` and `UPSTREAM_CLIENT_KEY_FILE`.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate, then those between it and its root.
    pub chain: PemFile,
    /// The key of the first of them.
    pub key: PemFile,
}

/// `OUTBOUND_PROXY`. Its `Display` is the URL without the login.
#[derive(Clone)]
pub struct Outbound {
    /// How it is spoken to.
    pub protocol: OutboundProtocol,
    /// Host without port, an IPv6 address without brackets.
    pub host: String,
    /// The port of the URL or 1080.
    pub port: u16,
    /// Whom it is told that we are.
    pub login: Option<Login>,
}

/// The scheme of `OUTBOUND_PROXY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboundProtocol {
    /// SOCKS 5, given addresses that are looked up here.
    Socks5,
    /// SOCKS 5, given names.
    Socks5h,
    /// CONNECT, given names.
    Http,
}

/// User and password, percent-decoded.
#[derive(Clone)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Login {
    pub user: Secret,
    pub password: Secret,
}

/// The field `UPSTREAM_API_KEY` is written to.
#[derive(Clone)]
pub struct Credential {
    /// Field name, a token, as configured.
    pub name: String,
    /// What `value` begins with; no secret, shown by `--check`.
    pub prefix: String,
    /// Prefix and key.
    pub value: Secret,
}

/// Limits of the phases of an attempt.
#[derive(Clone)]
pub struct Attempts {
    /// Attempts in all, the first included; at least 1.
    pub max: u32,
    /// A connection of the limited number becoming free.
    pub pool_timeout: Duration,
    /// Resolving, connecting and the handshakes together.
    pub connect_timeout: Duration,
    /// Sending, without progress.
    pub write_timeout: Duration,
    /// From the last request byte handed over to the end of the response head.
    pub header_timeout: Duration,
    /// The same on the last attempt; `None` = no limit.
    pub last_header_timeout: Option<Duration>,
    /// As `header_timeout`, of a WebSocket handshake, where it is less.
    pub upgrade_header_timeout: Duration,
    /// Pause between attempts.
    pub backoff: Duration,
    /// The share of recent requests that may be sent again; `None` = no limit.
    pub budget_percent: Option<u8>,
}

/// What a client may send, and how slowly.
#[derive(Clone)]
pub struct ClientLimits {
    /// Any name will do in Host; not so for operators on loopback, where a name may be a website's trick.
    pub any_host: bool,
    /// Largest request body, in bytes.
    pub body_bytes_max: u64,
    /// From the first byte of a head to its last (and from accept to the first).
    pub header_timeout: Duration,
    /// Between two reads of a request body.
    pub body_timeout: Duration,
    /// Between two requests of a connection.
    pub idle_timeout: Duration,
    /// Writing to the client, without progress.
    pub write_timeout: Duration,
}

/// A value that cannot be printed: it has neither `Debug` nor `Display`.
///
/// ```compile_fail,E0277
/// # fn f(secret: codex_reset_proxy::config::Secret) {
/// println!("{secret:?}"); // error: `Secret` doesn't implement `Debug`
/// # }
/// ```
///
/// ```compile_fail,E0277
/// # fn f(secret: codex_reset_proxy::config::Secret) {
/// println!("{secret}"); // error: `Secret` doesn't implement `Display`
/// # }
/// ```
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes a value out of sight.
    pub fn new(value: impl Into<Vec<u8>>) -> Secret {
        Secret(value.into())
    }

    /// The value, for the wire and for comparing. Never for a log line.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// `LOG_LEVEL`. `WARN` reads as `Warning`, `CRITICAL` as `Error`: nothing here is worse than an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    #[serde(alias = "WARN")]
    Warning,
    #[serde(alias = "CRITICAL")]
    Error,
    Off,
}

/// `LOG_FORMAT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
