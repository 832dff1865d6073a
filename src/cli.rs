//! The command line: what may be asked, what `--help` and `--check` say, and the health check.
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, Command};
use codex_reset_proxy::config::{Config, Listen, SETTINGS};
use codex_reset_proxy::net::driver;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};

/// Terminals are at least this wide.
const COLUMNS: usize = 80;

/// Room for the longest name and two spaces.
const NAME_COLUMNS: usize = 37;

/// Docker's own limit for a check is 5 s in our image; ours must end first, to say why.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// Our own answer has some 150 bytes; whoever sends more is someone else.
const HEALTH_BYTES_MAX: usize = 4096;

/// What the command line asks for.
pub(crate) enum Asked {
    /// No argument: serve.
    Run,
    /// `--check`
    Check,
    /// `--version`
    Version,
    /// `healthcheck`
    Healthcheck,
}

/// Reads this process's arguments; `--help` and errors are printed here, and come back
/// as the code to exit with.
pub(crate) fn parse() -> Result<Asked, ExitCode> {
    let matches = command().try_get_matches().map_err(|error| {
        let _ = error.print();
        u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
    })?;
    Ok(if matches.subcommand_name().is_some() {
        Asked::Healthcheck
    } else if matches.get_flag("check") {
        Asked::Check
    } else if matches.get_flag("version") {
        Asked::Version
    } else {
        Asked::Run
    })
}

fn command() -> Command {
    Command::new("codex-reset-proxy")
        .about(concat!(env!("CARGO_PKG_DESCRIPTION"), "."))
        .after_help(settings_text())
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true)
        .disable_version_flag(true)
        .arg(
            Arg::new("check")
                .long("check")
                .action(ArgAction::SetTrue)
                .help("Check the settings, print those in effect and exit"),
        )
        .arg(
            Arg::new("version")
                .short('V')
                .long("version")
                .action(ArgAction::SetTrue)
                .exclusive(true)
                .help("Print version, commit and the driver it would run on here"),
        )
        .subcommand(
            Command::new("healthcheck")
                .about("Ask the running proxy's /healthz; exit with 0 if it is well, or 1"),
        )
}

/// The table of variables as `--help` shows it: name and default, and the meaning below them.
fn settings_text() -> String {
    let mut text = String::from(
        "Example:\n\
         \x20 UPSTREAM_BASE_URL=https://api.openai.com codex-reset-proxy\n\
         \x20 curl http://127.0.0.1:8788/v1/models -H \"Authorization: Bearer $KEY\"\n\n\
         Settings are environment variables; unset and empty mean the default. Durations\n\
         are seconds, decimals allowed.\n",
    );
    for setting in SETTINGS {
        let (name, default) = (setting.name, setting.default);
        // Spaces at the end of a default would be lost on the reader.
        let quote = if default.ends_with(' ') { "\"" } else { "" };
        let _ = write!(text, "\n  {name:<NAME_COLUMNS$}{quote}{default}{quote}");
        let mut column = COLUMNS;
        for word in setting.meaning.split(' ') {
            if column + 1 + word.len() > COLUMNS {
                text.push_str("\n     ");
                column = 5;
            }
            text.push(' ');
            text.push_str(word);
            column += 1 + word.len();
        }
    }
    text.push_str(
        "\n\nMONOIO_FORCE_LEGACY_DRIVER=1 chooses epoll, whatever the kernel allows.\n\n\
         Signals: SIGTERM and SIGINT end accepting; responses may go on for\n\
         DRAIN_TIMEOUT_SECONDS. The next one ends the process at once.\n\n\
         Exit codes: 0 after SIGTERM or SIGINT, 1 when the start failed (a port in use)\n\
         or a second signal ended it, 2 when settings or arguments are wrong.",
    );
    text
}

/// What it is, and what the kernel and the limits allow it, for `--version`.
pub(crate) fn version_text() -> String {
    let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("COMMIT"));
    let driver = match driver::build() {
        Ok((_, chosen)) if chosen.fallbacks.is_empty() => chosen.name.to_owned(),
        Ok((_, chosen)) => format!("{} ({})", chosen.name, chosen.fallbacks.join("; ")),
        Err(error) => format!("none ({error})"),
    };
    format!("codex-reset-proxy {version}\ncommit: {commit}\ndriver: {driver}\n")
}

/// The settings in effect, one a line, for `--check`.
pub(crate) fn effective_text(config: &Config) -> String {
    let mut text = String::new();
    for (name, value) in config.effective() {
        let _ = writeln!(text, "{name:<NAME_COLUMNS$}{value}");
    }
    text
}

/// Asks the proxy that listens on `listen` how it is; the error is a line for the operator.
pub(crate) fn ask_health(listen: Listen) -> Result<(), String> {
    let (place, settings) = match listen {
        Listen::Tcp(addr) if addr.port() == 0 => {
            return Err(
                "healthcheck: LISTEN_PORT is 0, so only the running proxy knows its port; \
                        set LISTEN_PORT or PROXY_PORT"
                    .to_owned(),
            );
        }
        Listen::Tcp(addr) => {
            let addr = SocketAddr::new(reachable(addr.ip()), addr.port());
            (Listen::Tcp(addr), "LISTEN_HOST and LISTEN_PORT")
        }
        Listen::Unix(_) => (listen, "LISTEN_UNIX"),
    };
    let (host, url) = match &place {
        Listen::Tcp(addr) => (addr.to_string(), format!("http://{addr}/healthz")),
        Listen::Unix(_) => ("localhost".to_owned(), format!("{place}:/healthz")),
    };
    match health_status(&place, &host) {
        Ok(200) => Ok(()),
        Ok(503) => Err(format!(
            "healthcheck: {url} answered 503: the proxy is draining and will exit"
        )),
        Ok(status) => Err(format!(
            "healthcheck: {url} answered {status}: another program may listen there; see {settings}"
        )),
        Err(error) => Err(format!(
            "healthcheck: no answer from {url} ({error}): see whether the proxy runs and has the \
             same {settings}"
        )),
    }
}

/// The unspecified address means all addresses to a listener and none to a client.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// The status of `GET /healthz`, within `HEALTH_TIMEOUT` for everything together.
#[allow(
    clippy::disallowed_types,
    reason = "a process of its own, with nothing else to do: no runtime is needed, no core blocked"
)]
fn health_status(place: &Listen, host: &str) -> io::Result<u16> {
    let deadline = Instant::now() + HEALTH_TIMEOUT;
    let mut conn = match place {
        Listen::Tcp(addr) => std::net::TcpStream::connect_timeout(addr, HEALTH_TIMEOUT)?,
        Listen::Unix(path) => {
            let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
            set_socket_timeout(&socket, Timeout::Send, Some(HEALTH_TIMEOUT))?; // of connect(2) too
            connect(&socket, &SocketAddrUnix::new(path)?)?;
            socket.into() // read and written like any other
        }
    };
    conn.set_write_timeout(Some(HEALTH_TIMEOUT))?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    conn.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // To the end, not to the status: the proxy would log a client that left.
    while answer.len() < HEALTH_BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        conn.set_read_timeout(Some(left))?;
        let mut buf = [0; 1024];
        match conn.read(&mut buf) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buf[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What a read time-out is called on Linux.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
    parse_status(&answer).ok_or_else(|| io::Error::other("not an HTTP response"))
}

/// RFC 9112 4: `HTTP/1.1 200`, and a space or the line's end.
fn parse_status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|&byte| byte == b'\r').next()?;
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let (status, reason) = rest.get(2..)?.split_at_checked(3)?;
    let ends = matches!(reason.first(), None | Some(b' '));
    std::str::from_utf8(status)
        .ok()
        .filter(|status| ends && status.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|status| status.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn help_fits_a_terminal_and_leaves_space_after_each_name() {
        for line in settings_text().lines() {
            assert!(line.len() <= COLUMNS, "{line}");
        }
        for setting in SETTINGS {
            assert!(setting.name.len() + 2 <= NAME_COLUMNS, "{}", setting.name);
        }
    }

    #[test]
    fn only_a_status_line_has_a_status() {
        for (answer, status) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Some(200)),
            ("HTTP/1.0 503\r\n\r\n", Some(503)),
            ("HTTP/1.1 2000\r\n", None),
            ("HTTP/1.1 20", None),
            ("HTTP/1.1 -20 \r\n", None),
            ("SSH-2.0-OpenSSH\r\n", None),
            ("", None),
        ] {
            assert_eq!(parse_status(answer.as_bytes()), status, "{answer}");
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_asked_over_loopback() {
        for (listen, asked) in [
            ("0.0.0.0", "127.0.0.1"),
            ("::", "::1"),
            ("10.1.2.3", "10.1.2.3"),
        ] {
            let ip: IpAddr = listen.parse().unwrap();
            assert_eq!(reachable(ip).to_string(), asked);
        }
    }
}
