//! Makes a `Config` of the environment: every variable is read before the first fault ends it.
use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::addresses::{read_admin, read_listen};
use super::environment::{Environment, Fault, Read};
use super::{Attempts, ClientLimits, Config, outbound, upstream};

/// More threads than this are a slip of the finger.
const WORKERS_MAX: usize = 1024;

/// Each attempt may cost the user money.
const ATTEMPTS_MAX: u32 = 100;

/// 1 TiB: a body is held in memory while it may be replayed.
const BODY_BYTES_MAX: u64 = 1 << 40;

/// As many as a process may have descriptors (fs.nr_open at most).
const CLIENT_CONNECTIONS_MAX: u64 = 1 << 30;

impl Config {
    /// The settings of this process.
    ///
    /// # Errors
    ///
    /// Every fault of every variable, each naming its variable.
    pub fn from_env() -> Result<Config, Vec<Fault>> {
        Config::from_lookup(|name| std::env::var_os(name))
    }

    /// The same from anything that knows variables by name.
    ///
    /// # Errors
    ///
    /// As [`Config::from_env`].
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Config, Vec<Fault>> {
        Environment::read(&lookup, read_config)
    }

    /// What the operator should be told at the start, loudly.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let reachable = |addr: SocketAddr| !addr.ip().to_canonical().is_loopback();
        if self.listen.addr().is_some_and(reachable)
            && self.upstream.credential.is_some()
            && self.access_token.is_none()
        {
            warnings.push(format!(
                "UPSTREAM_API_KEY is set, {} can be reached from beyond loopback and PROXY_ACCESS_TOKEN \
                 is unset: whoever reaches this port spends that key. Set PROXY_ACCESS_TOKEN or listen \
                 on 127.0.0.1; in a container, publish the port on 127.0.0.1 only.",
                self.listen
            ));
        }
        if let Some(admin) = self.admin
            && reachable(admin)
        {
            warnings.push(format!(
                "ADMIN_HOST is {}: whoever reaches port {} sees the paths of requests, the settings \
                 and the numbers, and is asked for no token",
                admin.ip(),
                admin.port()
            ));
        }
        warnings.extend(self.upstream.overheard());
        if self.client.body_bytes_max > self.buffered_bytes_max {
            warnings.push(format!(
                "MAX_REQUEST_BODY_BYTES is {}, but a body of more than MAX_BUFFERED_BYTES, which is {}, \
                 is always refused with 503",
                self.client.body_bytes_max, self.buffered_bytes_max
            ));
        }
        warnings.extend(self.upstream.warning());
        warnings
    }
}

/// Reads everything before the first `?`, so that one run finds all faults.
fn read_config(env: &mut Environment) -> Read<Config> {
    let listen = read_listen(env);
    let workers = env.optional_number("WORKERS", 1..=WORKERS_MAX);
    let upstream = upstream::read(env);
    let outbound = outbound::read(env, &upstream);
    let attempts = read_attempts(env);
    let client = read_client_limits(env);
    let client_connections_max = env.number("MAX_CLIENT_CONNECTIONS", 1..=CLIENT_CONNECTIONS_MAX);
    let buffered_bytes_max = env.number("MAX_BUFFERED_BYTES", 1..=BODY_BYTES_MAX);
    let access_token = env.secret("PROXY_ACCESS_TOKEN");
    let stream_idle_timeout = env.seconds_or_zero("STREAM_IDLE_TIMEOUT_SECONDS");
    let drain_timeout = env.seconds_or_zero("DRAIN_TIMEOUT_SECONDS");
    let log_level = env.keyword(
        "LOG_LEVEL",
        "TRACE, DEBUG, INFO, WARNING, ERROR, CRITICAL or OFF",
    );
    let log_format = env.keyword("LOG_FORMAT", "text or json");
    let admin = read_admin(env, &listen);
    let reuse_port = env.switch("REUSE_PORT");

    let upstream = upstream?;
    let workers = workers?.unwrap_or_else(cores);
    Ok(Config {
        listen: listen?,
        admin: admin?,
        reuse_port: reuse_port?,
        workers: match upstream.connections_max {
            0 => workers,
            // Every worker gets its share, and a share is at least one connection.
            connections_max => workers.min(connections_max),
        },
        upstream,
        outbound: outbound?,
        attempts: attempts?,
        client: client?,
        client_connections_max: client_connections_max?,
        buffered_bytes_max: buffered_bytes_max?,
        access_token: access_token?,
        stream_idle_timeout: none_if_zero(stream_idle_timeout?),
        drain_timeout: drain_timeout?,
        log_level: log_level?,
        log_format: log_format?,
    })
}

fn read_attempts(env: &mut Environment) -> Read<Attempts> {
    let max = env.number("UPSTREAM_MAX_ATTEMPTS", 1..=ATTEMPTS_MAX);
    let pool_timeout = env.seconds("POOL_TIMEOUT_SECONDS");
    let connect_timeout = env.seconds("CONNECT_TIMEOUT_SECONDS");
    let write_timeout = env.seconds("WRITE_TIMEOUT_SECONDS");
    let header_timeout = env.seconds("RESPONSE_HEADER_TIMEOUT_SECONDS");
    let last = env.optional_seconds_or_zero("LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS");
    let upgrade_header_timeout = env.seconds("UPGRADE_HEADER_TIMEOUT_SECONDS");
    let backoff = env.seconds_or_zero("RETRY_BACKOFF_SECONDS");
    let budget_percent = env.optional_number("RETRY_BUDGET_PERCENT", 1..=100);
    let header_timeout = header_timeout?;
    Ok(Attempts {
        max: max?,
        pool_timeout: pool_timeout?,
        connect_timeout: connect_timeout?,
        write_timeout: write_timeout?,
        header_timeout,
        last_header_timeout: last?.map_or(Some(header_timeout), none_if_zero),
        upgrade_header_timeout: upgrade_header_timeout?,
        backoff: backoff?,
        budget_percent: budget_percent?,
    })
}

fn read_client_limits(env: &mut Environment) -> Read<ClientLimits> {
    let body_bytes_max = env.number("MAX_REQUEST_BODY_BYTES", 1..=BODY_BYTES_MAX);
    let header_timeout = env.seconds("CLIENT_HEADER_TIMEOUT_SECONDS");
    let body_timeout = env.seconds("CLIENT_BODY_TIMEOUT_SECONDS");
    let idle_timeout = env.seconds("CLIENT_IDLE_TIMEOUT_SECONDS");
    let write_timeout = env.seconds("CLIENT_WRITE_TIMEOUT_SECONDS");
    Ok(ClientLimits {
        any_host: true,
        body_bytes_max: body_bytes_max?,
        header_timeout: header_timeout?,
        body_timeout: body_timeout?,
        idle_timeout: idle_timeout?,
        write_timeout: write_timeout?,
    })
}

/// The cores this process may use: its affinity mask and its cgroup's quota count.
fn cores() -> usize {
    std::thread::available_parallelism()
        .map_or(1, NonZeroUsize::get)
        .min(WORKERS_MAX)
}

fn none_if_zero(limit: Duration) -> Option<Duration> {
    (!limit.is_zero()).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::super::{LogFormat, LogLevel};
    use super::*;

    const URL: (&str, &str) = ("UPSTREAM_BASE_URL", "https://api.example.com/v1/");

    fn read(variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let lookup = |name: &str| {
            let known = variables.iter().find(|(known, _)| *known == name);
            known.map(|(_, value)| OsString::from(value))
        };
        Config::from_lookup(lookup).map_err(|faults| faults.iter().map(Fault::to_string).collect())
    }

    fn read_valid(variables: &[(&str, &str)]) -> Config {
        read(&[&[URL], variables].concat()).unwrap_or_else(|faults| panic!("{faults:?}"))
    }

    fn read_faulty(variables: &[(&str, &str)]) -> Vec<String> {
        match read(&[&[URL], variables].concat()) {
            Ok(_) => panic!("no fault in {variables:?}"),
            Err(faults) => faults,
        }
    }

    #[test]
    fn the_base_url_alone_is_enough() {
        let config = read_valid(&[]);
        assert_eq!(config.listen.to_string(), "127.0.0.1:8788");
        assert!((1..=WORKERS_MAX).contains(&config.workers));
        assert_eq!(config.attempts.max, 2);
        assert_eq!(config.attempts.header_timeout, Duration::from_secs(30));
        assert_eq!(
            config.attempts.last_header_timeout,
            Some(Duration::from_secs(30))
        );
        assert_eq!(config.attempts.backoff, Duration::from_millis(250));
        assert_eq!(config.attempts.budget_percent, None);
        assert_eq!(config.client.body_bytes_max, 32 << 20);
        assert_eq!(config.client_connections_max, 10_000);
        assert_eq!(config.buffered_bytes_max, 1 << 30);
        assert_eq!(config.stream_idle_timeout, None);
        assert!(config.access_token.is_none() && config.upstream.credential.is_none());
        assert_eq!(
            (config.log_level, config.log_format),
            (LogLevel::Info, LogFormat::Text)
        );
        assert!(config.warnings().is_empty());
    }

    #[test]
    fn empty_and_blank_mean_the_default() {
        let names = super::super::SETTINGS.iter().map(|setting| setting.name);
        for blank in ["", "  "] {
            let variables: Vec<_> = names
                .clone()
                .filter(|name| !["UPSTREAM_BASE_URL", "UPSTREAM_API_KEY_PREFIX"].contains(name))
                .map(|name| (name, blank))
                .collect();
            assert_eq!(
                read_valid(&variables).effective(),
                read_valid(&[]).effective()
            );
        }
    }

    #[test]
    fn white_space_around_a_value_does_not_matter() {
        let config = read_valid(&[("WORKERS", " 3\n"), ("POOL_TIMEOUT_SECONDS", "\t1.5 ")]);
        assert_eq!(config.workers, 3);
        assert_eq!(config.attempts.pool_timeout, Duration::from_millis(1500));
    }

    #[test]
    fn all_faults_are_found_at_once_and_each_names_its_variable() {
        let bad = [
            ("UPSTREAM_BASE_URL", "ftp://x"),
            ("UPSTREAM_API_KEY", "a\nb"),
            ("UPSTREAM_API_KEY_HEADER", "Host"),
            ("UPSTREAM_API_KEY_PREFIX", "a\rb"),
            ("PROXY_ACCESS_TOKEN", "a\0b"),
            ("PROXY_PORT", "tcp://10.0.0.1:8788"),
            ("LISTEN_HOST", "example.com"),
            ("LISTEN_PORT", "65536"),
            ("LISTEN_UNIX", "name.sock"),
            ("REUSE_PORT", "maybe"),
            ("RESPONSE_HEADER_TIMEOUT_SECONDS", "0"),
            ("LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS", "-1"),
            ("UPGRADE_HEADER_TIMEOUT_SECONDS", "0"),
            ("UPSTREAM_MAX_ATTEMPTS", "0"),
            ("RETRY_BACKOFF_SECONDS", "nan"),
            ("RETRY_BUDGET_PERCENT", "20%"),
            ("CONNECT_TIMEOUT_SECONDS", "inf"),
            ("WRITE_TIMEOUT_SECONDS", "1e400"),
            ("POOL_TIMEOUT_SECONDS", "ten"),
            ("STREAM_IDLE_TIMEOUT_SECONDS", "-0.5"),
            ("MAX_REQUEST_BODY_BYTES", "32MiB"),
            ("MAX_BUFFERED_BYTES", "0"),
            ("MAX_CLIENT_CONNECTIONS", "0"),
            ("UPSTREAM_CA_FILE", "/no/such/file"),
            ("UPSTREAM_CLIENT_CERT_FILE", "/no/such/file"),
            ("UPSTREAM_CLIENT_KEY_FILE", "/"),
            ("UPSTREAM_MAX_CONNECTIONS", "-1"),
            ("UPSTREAM_IDLE_TIMEOUT_SECONDS", "0"),
            ("OUTBOUND_PROXY", "socks4://127.0.0.1"),
            ("CLIENT_HEADER_TIMEOUT_SECONDS", "0"),
            ("CLIENT_BODY_TIMEOUT_SECONDS", "0"),
            ("CLIENT_IDLE_TIMEOUT_SECONDS", "0"),
            ("CLIENT_WRITE_TIMEOUT_SECONDS", "0"),
            ("DRAIN_TIMEOUT_SECONDS", "1e9"),
            ("WORKERS", "1025"),
            ("LOG_LEVEL", "LOUD"),
            ("LOG_FORMAT", "xml"),
            ("ADMIN_PORT", "-1"),
            ("ADMIN_HOST", "example.com"),
        ];
        assert_eq!(
            bad.len(),
            super::super::SETTINGS.len(),
            "one for every setting"
        );
        let Err(faults) = read(&bad) else {
            panic!("no fault");
        };
        assert_eq!(faults.len(), bad.len(), "{faults:#?}");
        for (name, _) in bad {
            let naming = faults.iter().filter(|fault| {
                fault.starts_with(&format!("{name}=")) || fault.starts_with(&format!("{name} "))
            });
            assert_eq!(naming.count(), 1, "{name}");
        }
    }

    #[test]
    fn the_address_is_an_ip_address_or_localhost() {
        for (host, addr) in [
            ("0.0.0.0", "0.0.0.0:8788"),
            ("localhost", "127.0.0.1:8788"),
            ("LocalHost", "127.0.0.1:8788"),
            ("::1", "[::1]:8788"),
            ("[::]", "[::]:8788"),
        ] {
            let config = read_valid(&[("LISTEN_HOST", host)]);
            assert_eq!(config.listen.to_string(), addr);
        }
        for host in [
            "*",
            "[127.0.0.1]",
            "[::1",
            "::1]",
            "fe80::1%lo",
            "127.1",
            "0x7f.0.0.1",
        ] {
            assert_eq!(read_faulty(&[("LISTEN_HOST", host)]).len(), 1, "{host}");
        }
    }

    #[test]
    fn the_listening_port_is_listen_port_or_else_proxy_port() {
        let port = |variables: &[(&str, &str)]| {
            let addr = read_valid(variables).listen.addr();
            addr.expect("it is a port").port()
        };
        assert_eq!(port(&[("PROXY_PORT", "9000")]), 9000);
        assert_eq!(
            port(&[("PROXY_PORT", "9000"), ("LISTEN_PORT", "9001")]),
            9001
        );
        assert_eq!(port(&[("LISTEN_PORT", "0")]), 0);
        assert_eq!(
            read_faulty(&[("PROXY_PORT", "0")]),
            ["PROXY_PORT=\"0\" is not a whole number from 1 to 65535"]
        );
        // What Kubernetes sets for a Service of the name `proxy`, and its like do not confuse.
        assert_eq!(
            port(&[("PROXY_PORT_8788_TCP", "tcp://10.0.0.1:8788")]),
            8788
        );
        assert_eq!(
            read_faulty(&[("PROXY_PORT", "tcp://10.0.0.1:8788")]),
            ["PROXY_PORT=\"tcp://10.0.0.1:8788\" is not a whole number from 1 to 65535"]
        );
    }

    #[test]
    fn zero_means_no_limit_where_it_has_a_meaning() {
        let config = read_valid(&[
            ("LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS", "0"),
            ("STREAM_IDLE_TIMEOUT_SECONDS", "0.0"),
            ("RETRY_BACKOFF_SECONDS", "0"),
            ("DRAIN_TIMEOUT_SECONDS", "0"),
        ]);
        assert_eq!(config.attempts.last_header_timeout, None);
        assert_eq!(config.stream_idle_timeout, None);
        assert_eq!(config.attempts.backoff, Duration::ZERO);
        assert_eq!(config.drain_timeout, Duration::ZERO);
    }

    #[test]
    fn the_retry_budget_is_a_whole_number_of_percent() {
        for percent in [1, 20, 100] {
            let config = read_valid(&[("RETRY_BUDGET_PERCENT", &percent.to_string())]);
            assert_eq!(config.attempts.budget_percent, Some(percent));
        }
        for percent in ["0", "101", "300", "0.2", "-1", "off"] {
            let expected =
                format!("RETRY_BUDGET_PERCENT=\"{percent}\" is not a whole number from 1 to 100");
            assert_eq!(
                read_faulty(&[("RETRY_BUDGET_PERCENT", percent)]),
                [expected]
            );
        }
    }

    #[test]
    fn the_last_attempt_waits_as_long_as_the_others_unless_told_otherwise() {
        let response = ("RESPONSE_HEADER_TIMEOUT_SECONDS", "7");
        let last = |variables: &[(&str, &str)]| read_valid(variables).attempts.last_header_timeout;
        assert_eq!(last(&[response]), Some(Duration::from_secs(7)));
        let set = ("LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS", "9");
        assert_eq!(last(&[response, set]), Some(Duration::from_secs(9)));
    }

    #[test]
    fn every_worker_has_a_connection_of_the_limited_number() {
        let workers = |connections_max| {
            read_valid(&[
                ("WORKERS", "8"),
                ("UPSTREAM_MAX_CONNECTIONS", connections_max),
            ])
            .workers
        };
        assert_eq!(
            (workers("0"), workers("3"), workers("8"), workers("9")),
            (8, 3, 8, 8)
        );
    }

    #[test]
    fn words_are_read_in_any_case() {
        for (text, level) in [
            ("trace", LogLevel::Trace),
            ("Debug", LogLevel::Debug),
            ("INFO", LogLevel::Info),
            ("warn", LogLevel::Warning),
            ("WARNING", LogLevel::Warning),
            ("error", LogLevel::Error),
            ("Critical", LogLevel::Error),
            ("off", LogLevel::Off),
        ] {
            assert_eq!(read_valid(&[("LOG_LEVEL", text)]).log_level, level);
        }
        assert_eq!(
            read_valid(&[("LOG_FORMAT", "JSON")]).log_format,
            LogFormat::Json
        );
    }

    #[test]
    fn a_fault_of_the_outbound_proxy_shows_nothing_of_it() {
        let name = "OUTBOUND_PROXY";
        for text in [
            "canary://canary",
            "socks5://canary:canary%40proxy:1080",
            "http://canary:canary/@proxy",
            "http://proxy/?canary",
            "canary:canary@proxy",
        ] {
            let faults = read_faulty(&[(name, text)]);
            assert!(faults[0].starts_with(name) && faults.len() == 1);
            assert!(!faults[0].contains("canary"), "{faults:?}");
        }
        assert!(read_valid(&[(name, " ")]).outbound.is_none());
    }

    #[test]
    fn the_admin_listener_is_off_until_it_has_a_port_of_its_own() {
        assert_eq!(read_valid(&[("ADMIN_HOST", "::1")]).admin, None);
        let admin = |variables: &[(&str, &str)]| read_valid(variables).admin.unwrap().to_string();
        assert_eq!(admin(&[("ADMIN_PORT", "9100")]), "127.0.0.1:9100");
        assert_eq!(
            admin(&[
                ("ADMIN_PORT", "0"),
                ("LISTEN_PORT", "0"),
                ("ADMIN_HOST", "[::]")
            ]),
            "[::]:0"
        );
        for listen in [("PROXY_PORT", "9100"), ("LISTEN_PORT", "9100")] {
            let faults = read_faulty(&[("ADMIN_PORT", "9100"), ("ADMIN_HOST", "::1"), listen]);
            assert_eq!(
                faults,
                ["ADMIN_PORT=\"9100\" is the port that clients come to"]
            );
        }
        assert_eq!(
            read_valid(&[("ADMIN_PORT", "1"), ("ADMIN_HOST", "::")])
                .warnings()
                .len(),
            1
        );
        assert!(read_valid(&[("ADMIN_PORT", "1")]).warnings().is_empty());
    }

    #[test]
    fn a_key_that_strangers_could_spend_is_warned_of() {
        let key = ("UPSTREAM_API_KEY", "canary");
        let warnings = |variables: &[(&str, &str)]| read_valid(variables).warnings();
        for host in ["0.0.0.0", "::", "192.0.2.1"] {
            let listen = ("LISTEN_HOST", host);
            let lines = warnings(&[key, listen]);
            assert_eq!(lines.len(), 1, "{host}");
            assert!(!lines[0].contains("canary"));
            assert!(warnings(&[listen]).is_empty());
            assert!(warnings(&[key, listen, ("PROXY_ACCESS_TOKEN", "t")]).is_empty());
        }
        for host in ["127.0.0.2", "::1", "::ffff:127.0.0.1"] {
            assert!(warnings(&[key, ("LISTEN_HOST", host)]).is_empty(), "{host}");
        }
    }
}
