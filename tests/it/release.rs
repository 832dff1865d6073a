//! What a build says of itself, and what goes with a release.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::run;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn version_says_what_it_is_and_what_it_would_run_on() {
    for argument in ["-V", "--version"] {
        let ended = run(&[argument], &[]);
        assert_eq!(ended.status.code(), Some(0));
        let lines: Vec<_> = ended.text.lines().collect();
        let [first, commit, driver] = lines[..] else {
            panic!("{}", ended.text)
        };
        assert_eq!(first, format!("codex-reset-proxy {VERSION}"));
        let commit = commit.strip_prefix("commit: ").unwrap();
        let commit = commit.trim_end_matches("-dirty");
        let tag = format!("v{VERSION}");
        match git(&["rev-parse", "--verify", &format!("{commit}^{{commit}}")]) {
            // A release is tagged with its version; git reads `v0.1.0-3-g1a2b3c` too.
            Some(found) => assert!(
                commit == tag || found.starts_with(commit.rsplit('g').next().unwrap()),
                "{commit}"
            ),
            None => assert!(git(&["rev-parse", "HEAD"]).is_none(), "{commit}"),
        }
        assert!(driver.starts_with("driver: "), "{driver}");
    }
    let epoll = run(&["--version"], &[("MONOIO_FORCE_LEGACY_DRIVER", "1")]);
    let expected = "\ndriver: epoll (MONOIO_FORCE_LEGACY_DRIVER is set)";
    assert!(epoll.text.ends_with(expected), "{}", epoll.text);
}

#[test]
fn sources_without_their_history_are_told_their_commit_or_do_not_claim_one() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("release");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let script = folder.join("script");
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "-o"]).arg(&script);
    let built = rustc.arg(Path::new(ROOT).join("src/build.rs")).status();
    assert!(built.unwrap().success());
    // Within our own history, which is not theirs.
    let sources = folder.join("sources");
    fs::create_dir(&sources).unwrap();
    let says = |given: &str| {
        let mut command = Command::new(&script);
        command.env("CODEX_RESET_PROXY_COMMIT", given);
        let output = command.current_dir(&sources).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let found = text.lines().find_map(|line| line.split_once("COMMIT="));
        found.unwrap().1.to_owned()
    };
    assert_eq!(says(""), "unknown");
    let packed = r#"{
  "git": {
    "sha1": "8d3f0c5b7a"
  },
  "path_in_vcs": ""
}"#;
    fs::write(sources.join(".cargo_vcs_info.json"), packed).unwrap();
    assert_eq!(says(""), "8d3f0c5b7a");
    assert_eq!(says("v9.9.9"), "v9.9.9");
}

#[test]
fn the_readme_has_notes_of_this_release() {
    let readme = fs::read_to_string(PathBuf::from(ROOT).join("README.md")).unwrap();
    assert!(readme.contains(&format!("\n### {VERSION}\n")));
}

/// `None` where git, or the history, is missing.
fn git(arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    let output = git.args(arguments).current_dir(ROOT).output().ok()?;
    let text = output.status.success().then_some(output.stdout)?;
    Some(String::from_utf8(text).unwrap())
}
