//! Tells `--version` which commit it is. Sources without their history are built as well.
#![allow(clippy::print_stdout, reason = "this is how cargo is spoken to")]
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// Set by who builds without the history and knows better, such as the Dockerfile.
const GIVEN: &str = "CODEX_RESET_PROXY_COMMIT";
/// Put beside the sources by `cargo package`.
const PACKAGED: &str = ".cargo_vcs_info.json";
/// Written by every commit and every check-out.
const HISTORY: &str = ".git/logs/HEAD";

fn main() {
    println!("cargo::rerun-if-env-changed={GIVEN}");
    // One that is missing would count as changed with every build. `src` may make the commit dirty.
    for path in [PACKAGED, HISTORY, "Cargo.toml", "Cargo.lock", "src"] {
        if Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let given = env::var(GIVEN).ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(packaged).or_else(checked_out);
    let commit = commit.as_deref().unwrap_or("unknown");
    println!("cargo::rustc-env=COMMIT={commit}");
}

fn packaged() -> Option<String> {
    let info = fs::read_to_string(PACKAGED).ok()?;
    let (_, rest) = info.split_once(r#""sha1": ""#)?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// As `git describe` has it. A history further up is that of something else.
fn checked_out() -> Option<String> {
    fs::metadata(".git").ok()?;
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--tags", "--dirty", "--abbrev=12"]);
    let output = git.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
