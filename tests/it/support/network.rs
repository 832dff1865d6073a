//! Networks of a test's own: one for the proxy and its clients, one for the upstream, and a cable.
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Our end of the cable.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Another address for it.
pub const NEAR_AFTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
/// Two addresses of the upstream's end.
pub const FAR: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)];
const FAR_LINK: &str = "02:00:00:00:00:02";

/// Set for a test that runs in a network of its own.
const INSIDE: &str = "CODEX_RESET_PROXY_TEST_NETWORK";

pub struct Network {
    /// A shell in the upstream's network, which lasts as long as the shell.
    shell: Child,
    say: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Network {
    /// For the test of this name, which runs once more in networks of its own: `None` where this is not
    /// that run. It needs no rights but to make namespaces, and is skipped without.
    pub fn of(test: &str) -> Option<Self> {
        if std::env::var_os(INSIDE).is_some() {
            return Some(Self::laid());
        }
        let unshare = ["-Urn", "--kill-child"];
        let mut trial = Command::new("unshare");
        let script = "ip link add near type veth peer name far && unshare -n true";
        trial.args(unshare).args(["sh", "-c", script]);
        if !trial
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|it| it.success())
        {
            eprintln!("SKIPPED: no network namespaces to be had, so {test} is not shown");
            return None;
        }
        let mut again = Command::new("unshare");
        again.args(unshare).arg(std::env::current_exe().unwrap());
        again
            .args([test, "--exact", "--nocapture"])
            .env(INSIDE, "1");
        assert!(
            again.status().unwrap().success(),
            "{test} failed, see above"
        );
        None
    }

    fn laid() -> Self {
        let mut shell = Command::new("unshare")
            .args(["-n", "sh"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut network = Self {
            say: shell.stdin.take().unwrap(),
            said: BufReader::new(shell.stdout.take().unwrap()),
            shell,
        };
        network.far("ip link set lo up");
        network.near("link set lo up");
        let far = network.shell.id();
        network.near(&format!(
            "link add near type veth peer name far address {FAR_LINK} netns {far}"
        ));
        network.far("ip link set far up");
        network.near("link set near up");
        network.near(&format!("addr add {NEAR}/24 dev near"));
        for addr in FAR {
            network.far(&format!("ip addr add {addr}/32 dev far"));
        }
        network.far("ip route add 10.0.0.0/24 dev far");
        network
    }

    /// Does this by ip(8) in our network.
    #[track_caller]
    pub fn near(&self, arguments: &str) {
        let status = Command::new("ip").args(arguments.split(' ')).status();
        assert!(status.unwrap().success(), "ip {arguments}");
    }

    /// Runs this in the upstream's network.
    #[track_caller]
    pub fn far(&mut self, command: &str) {
        writeln!(self.say, "{command} >&2; echo $?").unwrap();
        let mut status = String::new();
        self.said.read_line(&mut status).unwrap();
        assert_eq!(status, "0\n", "{command}");
    }

    /// We have moved: the address we had is gone, and with it the way for all that was bound to it.
    pub fn moves(&self) {
        self.near(&format!("addr del {NEAR}/24 dev near"));
        self.near(&format!("addr add {NEAR_AFTER}/24 dev near"));
    }

    /// From now on packets for this address arrive, and nobody is there: not a word comes back.
    pub fn swallows(&mut self, addr: Ipv4Addr) {
        self.far(&format!("ip addr del {addr}/32 dev far"));
        // Or we would hear that nobody answers to it.
        self.near(&format!("neigh replace {addr} lladdr {FAR_LINK} dev near"));
    }

    /// What `work` yields that is done in the upstream's network: sockets stay where they are made.
    pub fn there<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let far = File::open(format!("/proc/{}/ns/net", self.shell.id())).unwrap();
        let work = || {
            move_into_link_name_space(far.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(work).join().unwrap())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
