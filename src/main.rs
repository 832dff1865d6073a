//! The program: what the command line asks for, then settings, then workers.
mod cli;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use codex_reset_proxy::config::{Config, Fault, listen_from_env};
use codex_reset_proxy::net::tls::TlsSettings;
use codex_reset_proxy::telemetry::log;
use codex_reset_proxy::worker;

use self::cli::Asked;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Ports in use, no memory: the settings are right, the machine is not.
const EXIT_FAILED: u8 = 1;

/// The settings are wrong: starting again will not help. A wrong command line ends so too.
const EXIT_BAD_SETTINGS: u8 = 2;

fn main() -> ExitCode {
    match cli::parse() {
        Ok(Asked::Run) => run(),
        Ok(Asked::Check) => check(),
        Ok(Asked::Version) => print(&cli::version_text()),
        Ok(Asked::Healthcheck) => healthcheck(),
        Err(exit) => exit,
    }
}

fn run() -> ExitCode {
    let (config, tls) = match settings() {
        Ok(settings) => settings,
        Err(faults) => return bad_settings(&faults, EXIT_BAD_SETTINGS),
    };
    match serve(&config, tls.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Serves until it is told to stop.
fn serve(config: &Config, tls: Option<&TlsSettings>) -> io::Result<()> {
    let _last_lines = log::start(config.log_level, config.log_format);
    worker::run(config, tls)
}

/// What the environment says, and the files that it names.
fn settings() -> Result<(Config, Option<TlsSettings>), Vec<String>> {
    let lines = |faults: Vec<_>| faults.iter().map(Fault::to_string).collect::<Vec<_>>();
    let config = Config::from_env().map_err(lines)?;
    let tls = TlsSettings::of(&config.upstream)?;
    Ok((config, tls))
}

fn check() -> ExitCode {
    let (config, tls) = match settings() {
        Ok(settings) => settings,
        Err(faults) => return bad_settings(&faults, EXIT_BAD_SETTINGS),
    };
    let of_tls = tls.and_then(|tls| tls.warning);
    for warning in config.warnings().into_iter().chain(of_tls) {
        complain(&format!("warning: {warning}"));
    }
    print(&cli::effective_text(&config))
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(EXIT_FAILED),
    }
}

/// Exits with 0 or 1 only: container engines reserve the other codes.
fn healthcheck() -> ExitCode {
    let listen = match listen_from_env() {
        Ok(listen) => listen,
        Err(faults) => return bad_settings(&faults, EXIT_FAILED),
    };
    match cli::ask_health(listen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            complain(&problem);
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn bad_settings(faults: &[impl Display], exit: u8) -> ExitCode {
    for fault in faults {
        complain(&fault.to_string());
    }
    ExitCode::from(exit)
}

/// One line on stderr. A stderr that is closed is no reason to fail otherwise than by exit code.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "codex-reset-proxy: {line}");
}
