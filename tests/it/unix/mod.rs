//! Unix sockets, on either side or both: what is promised over TCP holds over them.
mod listens;
mod upstream;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;

use crate::support;
use crate::support::net::unix_listener;

/// A directory for the sockets of a test.
struct Folder(support::Folder);

impl Folder {
    fn new() -> Self {
        Self(support::Folder::new())
    }

    /// One that listens on a socket in there, which is made.
    fn listener(&self, name: &str) -> TcpListener {
        unix_listener(&self.at(name))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path(name).into()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// For `Proxy::start_by`: as somebody to whom things can be forbidden.
fn unprivileged() -> Option<&'static [&'static str]> {
    const NOBODY: &[&str] = &[
        "setpriv",
        "--reuid=65534",
        "--clear-groups",
        "--bounding-set=-all",
    ];
    let launcher = if geteuid().is_root() {
        NOBODY
    } else {
        &["env"]
    };
    let mut trial = Command::new(launcher[0]);
    trial.args(&launcher[1..]);
    trial.args(["test", "-x", env!("CARGO_BIN_EXE_codex-reset-proxy")]);
    let may_run = trial.status().is_ok_and(|status| status.success());
    if !may_run {
        eprintln!("SKIPPED: nobody but root may run the binary, so nothing is forbidden");
    }
    may_run.then_some(launcher)
}
