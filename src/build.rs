//! Tells `--version` which commit it is. Sources without their history are built as well.
#![allow(clippy::print_stdout, reason = "this is how cargo is spoken to")]
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// Set by who builds without the history and knows better, such as the Dockerfile.
const GIVEN: &str = "CODEX_RESET_PROXY_COMMIT";
/// Put beside the sources by `cargo package`.
const PACKAGED: &str = ".cargo_vcs_info.json";

fn main() {
    println!("cargo::rerun-if-env-changed={GIVEN}");
    // Written by every commit and every check-out.
    let history = git(&["rev-parse", "--git-path", "logs/HEAD"]).unwrap_or_default();
    // One that is missing would count as changed with every build. `src` may make the commit dirty.
    for path in [PACKAGED, &history, "Cargo.toml", "Cargo.lock", "src"] {
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
    git(&["describe", "--always", "--tags", "--dirty", "--abbrev=12"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = output.status.success().then_some(output.stdout)?;
    Some(String::from_utf8(text).ok()?.trim().to_owned())
}
