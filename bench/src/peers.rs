//! The proxies that are compared: which are installed, and how each is started.
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{process::Running, results::Contestant};

const NGINX: &str = include_str!("../peers/nginx.conf");
const NGINX_TUNED: &str = include_str!("../peers/nginx-tuned.conf");
const HAPROXY: &str = include_str!("../peers/haproxy.cfg");
const HAPROXY_TUNED: &str = include_str!("../peers/haproxy-tuned.cfg");
const CADDYFILE: &str = include_str!("../peers/Caddyfile");
const ENVOY: &str = include_str!("../peers/envoy.yaml");

/// Where the program of this repository is built.
const PROXY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../target/release/codex-reset-proxy"
);
/// Debian's place for servers, which the PATH of ordinary users lacks.
const MORE_PLACES: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];
/// The slowest to start is Envoy, with under a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The origin as the peers are told of it.
#[derive(Debug, Clone)]
pub struct Upstream {
    pub addr: SocketAddr,
    /// With it: TLS, with a certificate for `localhost` and 127.0.0.1 that this CA has signed.
    pub ca_file: Option<PathBuf>,
    /// Silence after which a request is sent again.
    pub response_timeout: Duration,
    /// How long the proxy keeps connections that nobody uses.
    pub idle_timeout: Duration,
}

impl Upstream {
    pub fn plain(addr: SocketAddr) -> Self {
        Self {
            addr,
            ca_file: None,
            response_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// A proxy that can be started on this machine.
#[derive(Debug, Clone)]
pub struct Peer {
    pub name: &'static str,
    pub version: String,
    pub program: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Proxy,
    Nginx { tuned: bool },
    Haproxy { tuned: bool },
    Caddy,
    Envoy,
    Relay,
}

/// In the order of reports.
const KNOWN: [(&str, Kind); 8] = [
    ("proxy", Kind::Proxy),
    ("nginx", Kind::Nginx { tuned: false }),
    ("nginx-tuned", Kind::Nginx { tuned: true }),
    ("haproxy", Kind::Haproxy { tuned: false }),
    ("haproxy-tuned", Kind::Haproxy { tuned: true }),
    ("caddy", Kind::Caddy),
    ("envoy", Kind::Envoy),
    ("relay", Kind::Relay),
];

impl Kind {
    /// The program and the argument on which it says its version.
    fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::Proxy => (PROXY, "--version"),
            Self::Nginx { .. } => ("nginx", "-v"),
            Self::Haproxy { .. } => ("haproxy", "-v"),
            Self::Caddy => ("caddy", "version"),
            Self::Envoy => ("envoy", "--version"),
            Self::Relay => ("/proc/self/exe", "--version"),
        }
    }

    fn note(self) -> &'static str {
        match self {
            Self::Proxy => "this repository",
            Self::Nginx { tuned: false } => "peers/nginx.conf",
            Self::Nginx { tuned: true } => "with peers/nginx-tuned.conf",
            Self::Haproxy { tuned: false } => "peers/haproxy.cfg",
            Self::Haproxy { tuned: true } => "with peers/haproxy-tuned.cfg",
            Self::Caddy => "peers/Caddyfile",
            Self::Envoy => "peers/envoy.yaml",
            Self::Relay => "raw bytes both ways, no HTTP",
        }
    }
}

/// All that can be started, in the order of reports.
pub fn installed() -> Vec<Peer> {
    let present = |&(name, kind): &(&'static str, Kind)| {
        let (program, ask) = kind.program();
        let program = find(program)?;
        Some(Peer {
            name,
            version: version_of(&program, ask).ok()?,
            kind,
            program,
        })
    };
    KNOWN.iter().filter_map(present).collect()
}

/// Another build of the program of this repository, under a name of its own.
///
/// # Errors
/// It is not there, or does not run.
pub fn build_of(name: &'static str, program: &Path) -> Result<Peer, String> {
    let failed = |error| format!("{}: {error}", program.display());
    let program = program.canonicalize().map_err(failed)?;
    Ok(Peer {
        name,
        version: version_of(&program, "--version").map_err(failed)?,
        program,
        kind: Kind::Proxy,
    })
}

fn version_of(program: &Path, ask: &str) -> io::Result<String> {
    let answer = Command::new(program).arg(ask).output()?;
    let text = [answer.stdout, answer.stderr].concat();
    Ok(version_in(&String::from_utf8_lossy(&text)))
}

/// Builds the program of this repository, with cargo's progress on the terminal.
pub fn build_proxy() -> Result<(), String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // From there: rustup and cargo look for their settings along the working directory.
    cargo
        .current_dir(root)
        .args(["build", "--release", "--target-dir", "target"]);
    match cargo.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the proxy cannot be built: cargo: {status}")),
        Err(error) => Err(format!("the proxy cannot be built: cargo: {error}")),
    }
}

impl Peer {
    pub fn contestant(&self) -> Contestant {
        let (name, note) = (self.name.to_owned(), self.kind.note().to_owned());
        Contestant {
            name,
            version: self.version.clone(),
            note,
        }
    }

    /// Starts it on `listen` before `upstream`, with one worker for each of `cores` and pinned to
    /// them (none: one worker, anywhere); returns when it accepts. Configuration, log and temporary
    /// files go to `dir`, which is made.
    pub fn start(
        &self,
        listen: SocketAddr,
        upstream: &Upstream,
        cores: &[usize],
        dir: &Path,
    ) -> Result<Running, String> {
        let failed =
            |error: &dyn std::fmt::Display| format!("{} does not start: {error}", self.name);
        let workers = cores.len().max(1);
        fs::create_dir_all(dir).map_err(|error| failed(&error))?;
        let mut command = Command::new(&self.program);
        // Nothing of our environment configures a peer by accident.
        command.env_clear().current_dir(dir).env("HOME", dir);
        command.env("PATH", env::var_os("PATH").unwrap_or_default());
        match self.kind {
            Kind::Proxy => proxy(&mut command, listen, upstream, workers),
            Kind::Relay => {
                command.args(["relay", "--listen", &listen.to_string()]);
                command.args(["--upstream", &upstream.addr.to_string()]);
            }
            _ => {
                let file = dir.join(self.config_name());
                let text = self.config(listen, upstream, workers, dir);
                fs::write(&file, text).map_err(|error| failed(&error))?;
                self.configured(&mut command, &file, workers);
            }
        }
        let log = dir.join("log");
        let mut running =
            Running::start(&mut command, cores, &log).map_err(|error| failed(&error))?;
        running
            .wait_until_it_accepts(listen, START_LIMIT)
            .map_err(|error| failed(&error))?;
        Ok(running)
    }

    fn config_name(&self) -> String {
        let suffix = if self.kind == Kind::Envoy {
            ".yaml"
        } else {
            ""
        };
        format!("{}.conf{suffix}", self.name)
    }

    fn config(
        &self,
        listen: SocketAddr,
        upstream: &Upstream,
        workers: usize,
        dir: &Path,
    ) -> String {
        let (template, tuning) = match self.kind {
            Kind::Nginx { tuned } => (NGINX, if tuned { NGINX_TUNED } else { "" }),
            Kind::Haproxy { tuned } => (HAPROXY, if tuned { HAPROXY_TUNED } else { "" }),
            Kind::Caddy => (CADDYFILE, ""),
            Kind::Envoy => (ENVOY, ""),
            Kind::Proxy | Kind::Relay => ("", ""),
        };
        let ca_file = upstream.ca_file.as_deref().unwrap_or(Path::new(""));
        let values = HashMap::from([
            ("LISTEN", listen.to_string()),
            ("LISTEN_HOST", listen.ip().to_string()),
            ("LISTEN_PORT", listen.port().to_string()),
            ("UPSTREAM", upstream.addr.to_string()),
            ("UPSTREAM_HOST", upstream.addr.ip().to_string()),
            ("UPSTREAM_PORT", upstream.addr.port().to_string()),
            (
                "RESPONSE_TIMEOUT_SECONDS",
                upstream.response_timeout.as_secs_f64().to_string(),
            ),
            (
                "RESPONSE_TIMEOUT_MS",
                upstream.response_timeout.as_millis().to_string(),
            ),
            ("CA_FILE", ca_file.display().to_string()),
            ("WORKERS", workers.to_string()),
            ("DIR", dir.display().to_string()),
            ("TUNING", tuning.to_owned()),
            ("REQUEST_BUFFER", self.caddy_request_buffer().to_owned()),
        ]);
        filled_in(template, &values, upstream.ca_file.is_some())
    }

    fn caddy_request_buffer(&self) -> &'static str {
        if self.is_caddy_before_2_7() {
            "buffer_requests"
        } else {
            "request_buffers 32MiB"
        }
    }

    /// There the directive has another name, and the body is lost when a request is sent again.
    fn is_caddy_before_2_7(&self) -> bool {
        let mut numbers = self
            .version
            .split('.')
            .map(|number| number.parse().unwrap_or(0));
        let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        self.kind == Kind::Caddy && version < (2, 7)
    }

    fn configured(&self, command: &mut Command, file: &Path, workers: usize) {
        match self.kind {
            Kind::Nginx { .. } => command.args(["-e", "stderr", "-c"]).arg(file),
            Kind::Haproxy { .. } => command.args(["-db", "-f"]).arg(file),
            Kind::Caddy => {
                command.env("GOMAXPROCS", workers.to_string());
                command
                    .args(["run", "--adapter", "caddyfile", "--config"])
                    .arg(file)
            }
            Kind::Envoy => {
                command.args(["--disable-hot-restart", "--log-level", "error"]);
                command
                    .args(["--concurrency", &workers.to_string(), "-c"])
                    .arg(file)
            }
            Kind::Proxy | Kind::Relay => command,
        };
    }
}

fn proxy(command: &mut Command, listen: SocketAddr, upstream: &Upstream, workers: usize) {
    let scheme = if upstream.ca_file.is_some() {
        "https"
    } else {
        "http"
    };
    command.env("UPSTREAM_BASE_URL", format!("{scheme}://{}", upstream.addr));
    command.env("LISTEN_HOST", listen.ip().to_string());
    command.env("LISTEN_PORT", listen.port().to_string());
    command.env("WORKERS", workers.to_string());
    command.env("LOG_LEVEL", "WARNING");
    let response_timeout_seconds = upstream.response_timeout.as_secs_f64().to_string();
    command.env("RESPONSE_HEADER_TIMEOUT_SECONDS", response_timeout_seconds);
    let idle_timeout_seconds = upstream.idle_timeout.as_secs_f64().to_string();
    command.env("UPSTREAM_IDLE_TIMEOUT_SECONDS", idle_timeout_seconds);
    if let Some(ca_file) = &upstream.ca_file {
        command.env("UPSTREAM_CA_FILE", ca_file);
    }
}

/// Puts values in the place of `{{NAME}}`. A line behind `{{TLS}}` is for an upstream with TLS only, one
/// behind `{{PLAIN}}` for one without.
fn filled_in(template: &str, values: &HashMap<&str, String>, tls: bool) -> String {
    let (keep, leave) = if tls {
        ("{{TLS}}", "{{PLAIN}}")
    } else {
        ("{{PLAIN}}", "{{TLS}}")
    };
    let lines = template.lines().filter(|line| !line.starts_with(leave));
    let text: String = lines
        .flat_map(|line| [line.strip_prefix(keep).unwrap_or(line), "\n"])
        .collect();
    values.iter().fold(text, |text, (name, value)| {
        text.replace(&format!("{{{{{name}}}}}"), value)
    })
}

/// The path of a program: as it is if it has one, else as a shell would find it.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(MORE_PLACES.map(PathBuf::from));
    // A path that begins at the root replaces what it is joined to.
    places
        .map(|place| place.join(program))
        .find(|file| file.is_file())
}

/// The first word (or part of one between slashes) that begins with a number and a dot.
fn version_in(text: &str) -> String {
    let mut parts = text.split(|char: char| char.is_whitespace() || char == '/');
    let version = parts.find_map(|part| {
        let part = part.trim_start_matches('v');
        let (major, _) = part.split_once('.')?;
        major.parse::<u32>().is_ok().then_some(part)
    });
    version.unwrap_or("unknown").to_owned()
}
