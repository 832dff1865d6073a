//! Servers that others have written, where they are installed, and folders for what they need.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

use rustix::process::{Pid, Signal, kill_process};

use super::net::within;
use super::{DEADLINE, Vacant, sockets};

/// A folder of the test's own, as long as this lives.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("codex-reset-proxy-{}-{number}", process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file; its path.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where a program is, if it is installed.
pub fn installed(name: &str) -> Option<String> {
    let paths = ["/usr/sbin", "/usr/bin"].map(|folder| format!("{folder}/{name}"));
    paths.into_iter().find(|path| fs::metadata(path).is_ok())
}

/// Another's server, as long as this lives.
pub struct Server {
    child: Child,
    folder: Folder,
    pub addr: SocketAddr,
}

/// The port that a server is told may be taken by the time it listens: then it ends, and begins again.
const STARTS_MAX: usize = 5;

impl Server {
    /// Starts `name` in a folder of its own: `prepared` writes there what it needs to listen on a port,
    /// and yields its arguments. `None` where it is not installed.
    pub fn start(name: &str, prepared: impl Fn(u16, &Folder) -> Vec<String>) -> Option<Self> {
        let Some(path) = installed(name) else {
            eprintln!("SKIPPED: {name} is not installed, nobody connects to it");
            return None;
        };
        let mut log = String::new();
        for _ in 0..STARTS_MAX {
            let mut server = Self::spawn(&path, &prepared);
            if server.comes_up() {
                return Some(server);
            }
            log = server.log();
        }
        panic!("{name} does not listen: {log}");
    }

    fn spawn(path: &str, prepared: impl Fn(u16, &Folder) -> Vec<String>) -> Self {
        let folder = Folder::new();
        let addr = Vacant::new().addr;
        let arguments = prepared(addr.port(), &folder);
        let log = fs::File::create(folder.path("log")).unwrap();
        let mut command = Command::new(path);
        command.args(arguments).current_dir(&folder.0);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap());
        Self {
            child: command.stderr(log).spawn().unwrap(),
            folder,
            addr,
        }
    }

    /// Waits until it listens: `false` where it ends instead.
    fn comes_up(&mut self) -> bool {
        let mut listens = false;
        within(DEADLINE, || {
            listens = self.listens();
            listens || self.child.try_wait().unwrap().is_some()
        });
        listens
    }

    /// Whether it does, and not another that got its port.
    fn listens(&self) -> bool {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        let Ok(descriptors) = descriptors else {
            return false; // it has ended
        };
        let held = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let held: Vec<_> = held.collect();
        sockets::all().iter().any(|socket| {
            let name = format!("socket:[{}]", socket.inode);
            socket.local == self.addr && socket.remote.port() == 0 && held.contains(&name.into())
        })
    }

    /// What it has written.
    pub fn log(&self) -> String {
        let log = fs::read(self.folder.path("log")).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}
