//! The proxy under test: the built binary as a child process, its log read as it is written.
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use super::net::{eventually, within};
use super::{Client, DEADLINE, Origin, Response, Seen, assert_no_secret, look_at, sockets};

const BINARY: &str = env!("CARGO_BIN_EXE_codex-reset-proxy");
const DRIVER: &str = "MONOIO_FORCE_LEGACY_DRIVER";

pub struct Proxy {
    pub addr: SocketAddr,
    /// The socket it listens on in place of that address; start it with `LISTEN_UNIX`.
    pub unix: Option<PathBuf>,
    child: Child,
    log: Seen<String>,
    /// Its output is not read for as long as this lives.
    pause: Option<Sender<()>>,
    ended: bool,
}

impl Proxy {
    /// Starts it in front of `origin`; `settings` come on top of what tests usually want.
    #[track_caller]
    pub fn start(origin: &Origin, settings: &[(&str, &str)]) -> Self {
        Self::start_at(&origin.url(), settings)
    }

    /// The same, and nothing is read from its output after the start.
    #[track_caller]
    pub fn start_unread(origin: &Origin, settings: &[(&str, &str)]) -> Self {
        let (release, pause) = mpsc::channel();
        let mut proxy = Self::begin(&origin.url(), settings, Output::Paused(pause));
        proxy.pause = Some(release);
        proxy
    }

    /// The same on a terminal, whose lines end with CR.
    #[track_caller]
    pub fn start_on_terminal(origin: &Origin, settings: &[(&str, &str)]) -> Self {
        Self::begin(&origin.url(), settings, Output::Terminal)
    }

    #[track_caller]
    pub fn start_at(base_url: &str, settings: &[(&str, &str)]) -> Self {
        Self::begin(base_url, settings, Output::Pipe)
    }

    /// The same, started by a program that in the end becomes the proxy, such as prlimit(1): its
    /// arguments up to the proxy's name.
    #[track_caller]
    pub fn start_by(launcher: &[&str], base_url: &str, settings: &[(&str, &str)]) -> Self {
        Self::spawn(launched(launcher), base_url, settings, Output::Pipe)
    }

    /// The same, with a listener that is handed over by the protocol of sd_listen_fds(3).
    #[track_caller]
    pub fn start_on(listener: &TcpListener, base_url: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = launched(&ACTIVATED);
        command.stdin(OwnedFd::from(listener.try_clone().unwrap()));
        let settings = [&[("LISTEN_FDS", "1")], settings].concat();
        Self::spawn(command, base_url, &settings, Output::Pipe)
    }

    #[track_caller]
    fn begin(base_url: &str, settings: &[(&str, &str)], output: Output) -> Self {
        Self::spawn(launched(&[]), base_url, settings, output)
    }

    #[track_caller]
    fn spawn(command: Command, base_url: &str, settings: &[(&str, &str)], output: Output) -> Self {
        let started = Self::try_spawn(command, base_url, settings, output);
        started.unwrap_or_else(|proxy| panic!("it does not start: {}", proxy.text()))
    }

    /// As `start_by`, where it may not start.
    pub fn try_start_by(
        launcher: &[&str],
        base_url: &str,
        settings: &[(&str, &str)],
    ) -> Option<Self> {
        Self::try_spawn(launched(launcher), base_url, settings, Output::Pipe).ok()
    }

    fn try_spawn(
        command: Command,
        base_url: &str,
        settings: &[(&str, &str)],
        output: Output,
    ) -> Result<Self, Self> {
        let mut all = BTreeMap::from([
            ("UPSTREAM_BASE_URL", base_url),
            ("LISTEN_PORT", "0"),
            ("LOG_FORMAT", "text"),
            ("LOG_LEVEL", "TRACE"), // whatever it logs is looked through for secrets
            ("WORKERS", "2"),
            ("RETRY_BACKOFF_SECONDS", "0.02"),
        ]);
        all.extend(settings.iter().copied());
        let all: Vec<_> = all.into_iter().collect();
        let (child, log) = running(prepared(command, &all), output);
        let mut proxy = Self {
            addr: ([0, 0, 0, 0], 0).into(),
            unix: None,
            child,
            log,
            pause: None,
            ended: false,
        };
        let listening = proxy.log.wait(DEADLINE, |lines| {
            let ended = lines.iter().any(|line| line == END);
            let found = lines.iter().find_map(|line| listening_on(line));
            found.map(Some).or(ended.then_some(None))
        });
        match listening.flatten() {
            Some(Ok(addr)) => proxy.addr = addr,
            Some(Err(path)) => proxy.unix = Some(path),
            None => return Err(proxy),
        }
        Ok(proxy)
    }

    /// Everything it has written so far.
    pub fn log(&self) -> Vec<String> {
        self.log.all()
    }

    pub fn text(&self) -> String {
        self.log().join("\n")
    }

    /// Waits for a line that contains all of `parts`.
    #[track_caller]
    pub fn logs(&self, parts: &[&str]) -> String {
        let has_all = |line: &&String| parts.iter().all(|part| line.contains(part));
        let found = self
            .log
            .wait(DEADLINE, |lines| lines.iter().find(has_all).cloned());
        found.unwrap_or_else(|| panic!("no line with {parts:?}:\n{}", self.text()))
    }

    /// Waits until it has written `count` lines that contain all of `parts`.
    #[track_caller]
    pub fn logs_times(&self, count: usize, parts: &[&str]) -> Vec<String> {
        let has_all = |line: &str| parts.iter().all(|part| line.contains(part));
        let found = self.wait_for(count, has_all);
        found.unwrap_or_else(|| panic!("no {count} lines with {parts:?}:\n{}", self.text()))
    }

    /// Waits until `count` exchanges have ended; their lines, in either format. A client has its
    /// response a moment earlier: the upstream connection may not be back in the pool yet.
    #[track_caller]
    pub fn ended(&self, count: usize) -> Vec<String> {
        let of_exchange =
            |line: &str| line.contains(r#""message":"exchange""#) || line.contains("  total ");
        let found = self.wait_for(count, of_exchange);
        found.unwrap_or_else(|| panic!("no {count} exchanges have ended:\n{}", self.text()))
    }

    fn wait_for(&self, count: usize, is_meant: impl Fn(&str) -> bool) -> Option<Vec<String>> {
        self.log.wait(DEADLINE, |lines| {
            let found = lines.iter().filter(|line| is_meant(line));
            let found: Vec<String> = found.cloned().collect();
            (found.len() >= count).then_some(found)
        })
    }

    /// Where its admin listener is; start it with `ADMIN_PORT=0`.
    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        let line = self.logs(&["admin listener on http://"]);
        let (_, addr) = line.split_once("http://").unwrap();
        addr.trim_end_matches('/').parse().unwrap()
    }

    /// What its admin listener answers to a GET.
    #[track_caller]
    pub fn asked(&self, path: &str) -> Response {
        Client::connect_to(self.admin()).exchange(look_at(path))
    }

    /// What it says of itself as JSON.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&self.asked("/status.json").body).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Stops all its threads, lets things happen around it for `limit` at least, and wakes it again.
    #[track_caller]
    pub fn sleeps(&self, limit: Duration, meanwhile: impl FnOnce()) {
        let start = Instant::now();
        self.stop();
        meanwhile();
        thread::sleep(limit.saturating_sub(start.elapsed()));
        self.signal(Signal::CONT);
    }

    /// Stops all its threads, which is seen by proc_pid_stat(5); SIGCONT lets them go on.
    #[track_caller]
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let is_stopped = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap();
            let (_, after_name) = stat.rsplit_once(") ").unwrap();
            after_name.starts_with('T')
        };
        eventually("it stops", || {
            let mut tasks = fs::read_dir(self.proc("task")).unwrap();
            tasks.all(|task| is_stopped(task.unwrap()))
        });
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// How it ended, once it has.
    #[track_caller]
    pub fn exits_within(&mut self, limit: Duration) -> ExitStatus {
        let mut status = None;
        let ended = within(limit, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(ended, "still running after {limit:?}: {}", self.text());
        self.ended = true;
        status.unwrap()
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(self.proc("fd")).unwrap().count()
    }

    /// Resident memory in KiB, by proc(5).
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.unwrap().trim().trim_end_matches(" kB");
        number.parse().unwrap()
    }

    /// The names of its threads, those of the kernel's io_uring workers included.
    pub fn threads(&self) -> Vec<String> {
        let tasks = fs::read_dir(self.proc("task")).unwrap();
        let comm = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
        let names = tasks.filter_map(|task| comm(task.ok()?));
        names.map(|name| name.trim().to_owned()).collect()
    }

    /// The thread of this name, by its number.
    #[track_caller]
    pub fn thread(&self, name: &str) -> u32 {
        let mut tasks = fs::read_dir(self.proc("task")).unwrap().map(Result::unwrap);
        let named = |task: &fs::DirEntry| {
            let comm = fs::read_to_string(task.path().join("comm")).unwrap();
            comm.trim() == name
        };
        let task = tasks.find(named).unwrap();
        task.file_name().to_str().unwrap().parse().unwrap()
    }

    /// Connections of clients that it holds.
    pub fn clients(&self) -> usize {
        self.sockets(|own, _| own == self.addr)
    }

    /// Its connections to `addr`, established or not yet.
    pub fn sockets_to(&self, addr: SocketAddr) -> usize {
        self.sockets(|_, other| other == addr)
    }

    /// The same, whatever the address.
    pub fn sockets_to_port(&self, port: u16) -> usize {
        self.sockets(|_, other| other.port() == port)
    }

    fn sockets(&self, are: impl Fn(SocketAddr, SocketAddr) -> bool) -> usize {
        let descriptors = fs::read_dir(self.proc("fd")).unwrap();
        let link = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
        let links: HashSet<PathBuf> = descriptors.filter_map(|entry| link(entry.ok()?)).collect();
        let own = |inode: u64| links.contains(Path::new(&format!("socket:[{inode}]")));
        let all = sockets::all().into_iter();
        let alike = all.filter(|socket| are(socket.local, socket.remote));
        // A listener has the proxy's address too, and nobody at its other end.
        alike
            .filter(|socket| socket.remote.port() != 0 && own(socket.inode))
            .count()
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        self.pause = None;
        self.log.wait(DEADLINE, |lines| {
            lines.iter().any(|line| line == END).then_some(())
        });
        let text = self.text();
        if thread::panicking() {
            eprintln!("--- the proxy wrote:\n{text}");
        } else {
            assert!(!text.contains("panicked"), "the proxy panicked:\n{text}");
            assert_no_secret(&text);
        }
    }
}

/// How a run ended that was not meant to last, and what it wrote.
pub struct Ended {
    pub status: ExitStatus,
    pub text: String,
}

/// Runs the binary with arguments until it ends by itself.
#[track_caller]
pub fn run(arguments: &[&str], settings: &[(&str, &str)]) -> Ended {
    let mut command = launched(&[]);
    command.args(arguments);
    until_its_end(prepared(command, settings))
}

/// The same without arguments, started as by `Proxy::start_by`.
#[track_caller]
pub fn run_by(launcher: &[&str], settings: &[(&str, &str)]) -> Ended {
    until_its_end(prepared(launched(launcher), settings))
}

#[track_caller]
fn until_its_end(command: Command) -> Ended {
    let (mut child, log) = running(command, Output::Pipe);
    let both_ended = |lines: &[String]| lines.iter().any(|line| line == END).then_some(());
    if log.wait(DEADLINE, both_ended).is_none() {
        let _ = child.kill();
        let _ = child.wait();
        panic!("it does not end by itself: {}", log.all().join("\n"));
    }
    let status = child.wait().unwrap();
    let mut lines = log.all();
    lines.retain(|line| line != END);
    let text = lines.join("\n");
    assert_no_secret(&text);
    Ended { status, text }
}

/// What was stdin becomes the first descriptor that is handed over; settings say `LISTEN_FDS`.
pub const ACTIVATED: [&str; 3] = [
    "sh",
    "-c",
    "exec 3<&0 0</dev/null; LISTEN_PID=$$ exec \"$0\"",
];

/// Stands in the log where both outputs have ended.
const END: &str = "(end of output)";

fn launched(launcher: &[&str]) -> Command {
    let words = [launcher, &[BINARY]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    command
}

fn prepared(mut command: Command, settings: &[(&str, &str)]) -> Command {
    command
        .env_clear()
        .envs(settings.iter().copied())
        .envs(std::env::var(DRIVER).map(|value| (DRIVER, value)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What stdout is.
enum Output {
    Pipe,
    /// A pipe that is not read beyond the start-up line before the other end of this is dropped.
    Paused(Receiver<()>),
    Terminal,
}

/// Starts it, and reads stdout and stderr to their ends, so that neither ever fills.
#[track_caller]
fn running(mut command: Command, output: Output) -> (Child, Seen<String>) {
    let terminal = matches!(output, Output::Terminal).then(|| {
        let (ours, its) = terminal();
        command.stdout(its);
        ours
    });
    let mut child = command.spawn().unwrap();
    drop(command); // a terminal ends when nobody has it open
    let log = Seen::new();
    let pause = match output {
        Output::Paused(pause) => Some(pause),
        Output::Pipe | Output::Terminal => None,
    };
    let stdout = match terminal {
        Some(terminal) => reader(File::from(terminal), log.clone(), None),
        None => reader(child.stdout.take().unwrap(), log.clone(), pause),
    };
    let stderr = reader(child.stderr.take().unwrap(), log.clone(), None);
    let end = log.clone();
    thread::spawn(move || {
        let _ = (stdout.join(), stderr.join());
        end.push(END.to_owned());
    });
    (child, log)
}

/// A terminal: our end, and that of a program.
#[track_caller]
fn terminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let its = ioctl_tiocgptpeer(&ours, flags).unwrap();
    (ours, its)
}

fn reader(
    output: impl Read + Send + 'static,
    log: Seen<String>,
    mut pause: Option<Receiver<()>>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let started = listening_on(&line).is_some();
            log.push(line);
            if started && let Some(pause) = pause.take() {
                let _ = pause.recv(); // an error is the other end being dropped
            }
        }
    })
}

/// The address or the path.
fn listening_on(line: &str) -> Option<Result<SocketAddr, PathBuf>> {
    let (_, rest) = line.split_once("listening on ")?;
    if let Some((path, _)) = rest
        .strip_prefix("unix:")
        .and_then(|it| it.split_once(", "))
    {
        return Some(Err(path.into()));
    }
    let rest = rest.trim_start_matches("http://");
    let end = rest.find(|c: char| !(c.is_ascii_hexdigit() || "[]:.".contains(c)));
    let text = &rest[..end.unwrap_or(rest.len())];
    text.trim_end_matches(['.', ':']).parse().ok().map(Ok)
}
