//! Writes a `Config` back as lines for people: what `--check` prints. Secrets stay unseen.
use std::time::Duration;

use super::settings::{SETTINGS, UNSET};
use super::{Attempts, ClientLimits, Config, Credential, Listen, PemFile, Upstream};

/// Stands for a secret that is set; the same for every secret, so that it tells no length.
pub(super) const MASK: &str = "********";

/// Stands for a setting without effect.
const UNUSED: &str = "not used: UPSTREAM_API_KEY is unset";
const NO_TLS: &str = "not used: UPSTREAM_BASE_URL is not https://";
const NO_ADMIN: &str = "not used: ADMIN_PORT is unset";
const NO_PORT: &str = "not used: LISTEN_UNIX is set";

impl Config {
    /// Every setting as it takes effect, in the order of the table.
    ///
    /// `PROXY_PORT` is missing: it takes effect as `LISTEN_PORT`'s default only.
    pub fn effective(&self) -> Vec<(&'static str, String)> {
        // Taken apart by name, so that a new field cannot be forgotten here.
        let Config {
            listen,
            admin,
            reuse_port,
            workers,
            upstream,
            outbound,
            attempts,
            client,
            client_connections_max,
            buffered_bytes_max,
            access_token,
            stream_idle_timeout,
            drain_timeout,
            log_level,
            log_format,
        } = self;
        let mut lines = Vec::new();
        lines.extend(upstream.effective());
        let outbound = outbound.as_ref();
        lines.extend([
            (
                "OUTBOUND_PROXY",
                outbound.map_or(UNSET.to_owned(), ToString::to_string),
            ),
            (
                "PROXY_ACCESS_TOKEN",
                masked(access_token.is_some()).to_owned(),
            ),
            (
                "REUSE_PORT",
                if *reuse_port { "on" } else { "off" }.to_owned(),
            ),
        ]);
        lines.extend(listen.effective());
        lines.extend(attempts.effective());
        lines.extend(client.effective());
        lines.extend([
            ("MAX_CLIENT_CONNECTIONS", client_connections_max.to_string()),
            ("MAX_BUFFERED_BYTES", buffered_bytes_max.to_string()),
            (
                "STREAM_IDLE_TIMEOUT_SECONDS",
                seconds_or_none(*stream_idle_timeout),
            ),
            ("DRAIN_TIMEOUT_SECONDS", seconds(*drain_timeout)),
            ("WORKERS", workers.to_string()),
            ("LOG_LEVEL", format!("{log_level:?}").to_ascii_uppercase()),
            ("LOG_FORMAT", format!("{log_format:?}").to_ascii_lowercase()),
            (
                "ADMIN_PORT",
                admin.map_or(UNSET.to_owned(), |admin| admin.port().to_string()),
            ),
            (
                "ADMIN_HOST",
                admin.map_or(NO_ADMIN.to_owned(), |admin| admin.ip().to_string()),
            ),
        ]);
        lines.sort_by_key(|(name, _)| SETTINGS.iter().position(|setting| setting.name == *name));
        lines
    }
}

impl Listen {
    fn effective(&self) -> [(&'static str, String); 3] {
        let no_port = || NO_PORT.to_owned();
        let (host, port, socket) = match self {
            Self::Tcp(addr) => (
                addr.ip().to_string(),
                addr.port().to_string(),
                UNSET.to_owned(),
            ),
            Self::Unix(path) => (no_port(), no_port(), path.display().to_string()),
        };
        [
            ("LISTEN_HOST", host),
            ("LISTEN_PORT", port),
            ("LISTEN_UNIX", socket),
        ]
    }
}

impl Upstream {
    fn effective(&self) -> Vec<(&'static str, String)> {
        let Upstream {
            socket: _,
            tls,
            host: _,
            port: _,
            authority: _,
            path: _,
            credential,
            ca_file,
            client_certificate,
            connections_max,
            idle_timeout,
        } = self;
        let (name, prefix) = match credential {
            // Quoted: the space at its end is the point of it.
            Some(Credential {
                name,
                prefix,
                value: _,
            }) => (name.clone(), format!("{prefix:?}")),
            None => (UNUSED.to_owned(), UNUSED.to_owned()),
        };
        let path_of = |file: Option<&PemFile>| match file {
            Some(_) if !tls => NO_TLS.to_owned(),
            Some(file) => file.path.display().to_string(),
            None => UNSET.to_owned(),
        };
        let own = client_certificate.as_ref();
        vec![
            ("UPSTREAM_BASE_URL", self.url()),
            ("UPSTREAM_API_KEY", masked(credential.is_some()).to_owned()),
            ("UPSTREAM_API_KEY_HEADER", name),
            ("UPSTREAM_API_KEY_PREFIX", prefix),
            ("UPSTREAM_CA_FILE", path_of(ca_file.as_ref())),
            (
                "UPSTREAM_CLIENT_CERT_FILE",
                path_of(own.map(|own| &own.chain)),
            ),
            ("UPSTREAM_CLIENT_KEY_FILE", path_of(own.map(|own| &own.key))),
            ("UPSTREAM_MAX_CONNECTIONS", connections_max.to_string()),
            ("UPSTREAM_IDLE_TIMEOUT_SECONDS", seconds(*idle_timeout)),
        ]
    }
}

impl Attempts {
    fn effective(&self) -> [(&'static str, String); 9] {
        let Attempts {
            max,
            pool_timeout,
            connect_timeout,
            write_timeout,
            header_timeout,
            last_header_timeout,
            upgrade_header_timeout,
            backoff,
            budget_percent,
        } = self;
        let budget_percent = budget_percent.map_or(UNSET.to_owned(), |percent| percent.to_string());
        [
            ("UPSTREAM_MAX_ATTEMPTS", max.to_string()),
            ("POOL_TIMEOUT_SECONDS", seconds(*pool_timeout)),
            ("CONNECT_TIMEOUT_SECONDS", seconds(*connect_timeout)),
            ("WRITE_TIMEOUT_SECONDS", seconds(*write_timeout)),
            ("RESPONSE_HEADER_TIMEOUT_SECONDS", seconds(*header_timeout)),
            (
                "UPGRADE_HEADER_TIMEOUT_SECONDS",
                seconds(*upgrade_header_timeout),
            ),
            (
                "LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS",
                seconds_or_none(*last_header_timeout),
            ),
            ("RETRY_BACKOFF_SECONDS", seconds(*backoff)),
            ("RETRY_BUDGET_PERCENT", budget_percent),
        ]
    }
}

impl ClientLimits {
    fn effective(&self) -> [(&'static str, String); 5] {
        let ClientLimits {
            any_host: _,
            body_bytes_max,
            header_timeout,
            body_timeout,
            idle_timeout,
            write_timeout,
        } = self;
        [
            ("MAX_REQUEST_BODY_BYTES", body_bytes_max.to_string()),
            ("CLIENT_HEADER_TIMEOUT_SECONDS", seconds(*header_timeout)),
            ("CLIENT_BODY_TIMEOUT_SECONDS", seconds(*body_timeout)),
            ("CLIENT_IDLE_TIMEOUT_SECONDS", seconds(*idle_timeout)),
            ("CLIENT_WRITE_TIMEOUT_SECONDS", seconds(*write_timeout)),
        ]
    }
}

fn masked(is_set: bool) -> &'static str {
    if is_set { MASK } else { UNSET }
}

fn seconds(limit: Duration) -> String {
    limit.as_secs_f64().to_string()
}

fn seconds_or_none(limit: Option<Duration>) -> String {
    limit.map_or("0 (no limit)".to_owned(), seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Config {
        let config = Config::from_lookup(|name| {
            let known = variables.iter().find(|(known, _)| *known == name);
            known.map(|(_, value)| value.into())
        });
        config.unwrap_or_else(|faults| panic!("{faults:?}"))
    }

    const URL: (&str, &str) = ("UPSTREAM_BASE_URL", "http://localhost");

    #[test]
    fn every_setting_has_a_line_and_stands_in_the_tables_order() {
        let lines = config(&[URL]).effective();
        let names: Vec<_> = lines.iter().map(|(name, _)| *name).collect();
        let all = SETTINGS.iter().map(|setting| setting.name);
        let expected: Vec<_> = all.filter(|name| *name != "PROXY_PORT").collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn a_socket_takes_the_place_of_a_port_and_lets_no_strangers_in() {
        let config = config(&[
            ("UPSTREAM_BASE_URL", "unix:/run/up:/v1"),
            ("LISTEN_UNIX", "/run/s"),
            ("LISTEN_HOST", "0.0.0.0"),
            ("LISTEN_PORT", "9100"),
            ("ADMIN_PORT", "9100"),
            ("UPSTREAM_API_KEY", "canary"),
        ]);
        assert!(config.warnings().is_empty());
        let lines = config.effective();
        for (name, value) in [
            ("UPSTREAM_BASE_URL", "unix:/run/up:/v1"),
            ("LISTEN_UNIX", "/run/s"),
            ("LISTEN_HOST", NO_PORT),
            ("LISTEN_PORT", NO_PORT),
        ] {
            assert!(lines.contains(&(name, value.to_owned())), "{lines:?}");
        }
    }
}
