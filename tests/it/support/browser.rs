//! A headless Chromium, where there is one.
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process_group};

const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// Real seconds that one look may take, however much time passes for the page.
const LIMIT: &str = "120";

pub struct Browser {
    name: &'static str,
    profile: PathBuf,
}

impl Browser {
    /// `None`, and a word about it, where there is none to be had.
    pub fn find() -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let runs = |name: &&str| {
            let mut command = Command::new(name);
            command.arg("--version").stdout(Stdio::null());
            let status = command.stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        let Some(name) = NAMES.into_iter().find(runs) else {
            eprintln!("SKIPPED: there is no Chromium to look at the page with");
            return None;
        };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("chromium-{}-{number}", std::process::id());
        let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
        Some(Self { name, profile })
    }

    /// The document at `url`, written out after `millis` of its own time, which passes as fast as the
    /// answers to its questions come.
    #[track_caller]
    pub fn dom(&self, url: &str, millis: u32) -> String {
        let budget = format!("--virtual-time-budget={millis}");
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", LIMIT, self.name]);
        let command = self.prepared(&mut command, &["--dump-dom", &budget, url]);
        let dom = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(dom.contains("</html>"), "no document: {dom:?}");
        dom
    }

    /// Looks at `url` until what this yields is dropped; without running scripts where it is `blind`.
    pub fn open(&self, url: &str, blind: bool) -> Open {
        let scripts = format!("--blink-settings=scriptEnabled={}", !blind);
        let mut command = Command::new(self.name);
        let command = self.prepared(&mut command, &[&scripts, "--remote-debugging-port=0", url]);
        Open(command.process_group(0).spawn().unwrap())
    }

    fn prepared<'c>(&self, command: &'c mut Command, arguments: &[&str]) -> &'c mut Command {
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .arg(format!("--user-data-dir={}", self.profile.display()))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.profile);
    }
}

/// A browser with a page open.
pub struct Open(Child);

impl Drop for Open {
    fn drop(&mut self) {
        // It is several processes.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}
