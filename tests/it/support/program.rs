//! Servers that others have written, where they are installed, and folders for what they need.
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

use rustix::process::{Pid, Signal, kill_process};

use super::net::within;
use super::{DEADLINE, Vacant};

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

impl Server {
    /// Starts `name` in a folder of its own: `prepared` writes there what it needs to listen on a port,
    /// and yields its arguments. `None` where it is not installed.
    pub fn start(name: &str, prepared: impl FnOnce(u16, &Folder) -> Vec<String>) -> Option<Self> {
        let Some(path) = installed(name) else {
            eprintln!("SKIPPED: {name} is not installed, nobody connects to it");
            return None;
        };
        let folder = Folder::new();
        let addr = Vacant::new().addr;
        let arguments = prepared(addr.port(), &folder);
        let log = fs::File::create(folder.path("log")).unwrap();
        let mut command = Command::new(path);
        command.args(arguments).current_dir(&folder.0);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap());
        let server = Self {
            child: command.stderr(log).spawn().unwrap(),
            folder,
            addr,
        };
        let listens = within(DEADLINE, || TcpStream::connect(addr).is_ok());
        assert!(listens, "{name} does not listen: {}", server.log());
        Some(server)
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
