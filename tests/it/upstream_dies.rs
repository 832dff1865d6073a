//! An upstream that is killed and comes back, again and again, while hundreds of requests are under
//! way: a process of its own, which SIGKILL ends without a word.
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::Signal;

use crate::support::load::{self, Came};
use crate::support::net::eventually;
use crate::support::{DEADLINE, Origin, Proxy};

/// Where the child listens; the test below serves only where this is set.
const AT: &str = "CODEX_RESET_PROXY_TEST_UPSTREAM_AT";
const SERVES: &str = "it serves at ";
/// In the proxy's log: nobody listens.
const REFUSED: &str = "phase=connect";

#[test]
fn serves_until_it_is_killed() {
    let Ok(addr) = std::env::var(AT) else { return };
    let listener = TcpListener::bind(addr).unwrap();
    println!("\n{SERVES}{}", listener.local_addr().unwrap());
    let _origin = Origin::serves_on(listener, usize::MAX, load::answer);
    loop {
        thread::park();
    }
}

struct Upstream {
    child: Child,
    addr: SocketAddr,
}

impl Upstream {
    fn start(at: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "upstream_dies::serves_until_it_is_killed"])
            .arg("--nocapture")
            .env(AT, at)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let addr = lines.find_map(|line| Some(line.strip_prefix(SERVES)?.parse().unwrap()));
        let addr = addr.expect("it serves");
        Self { child, addr }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn an_upstream_killed_under_load_costs_what_was_under_way_and_nothing_else() {
    const CLIENTS: usize = 200;
    const REQUESTS: usize = 8;
    const KILLS: usize = 3;
    let mut upstream = Upstream::start("127.0.0.1:0");
    let addr = upstream.addr;
    let mut proxy = Proxy::start_at(&format!("http://{addr}"), &[]);
    let before = proxy.descriptors();
    let came = thread::scope(|scope| {
        let storm = scope.spawn(|| load::storm(&proxy, CLIENTS, REQUESTS));
        for kill in 1..=KILLS {
            proxy.ended(CLIENTS * REQUESTS * kill / (KILLS + 2));
            let refused = |line: &String| line.contains(REFUSED);
            let before = proxy.log().iter().filter(|line| refused(line)).count();
            upstream.kill();
            proxy.logs_times(before + 1, &[REFUSED]);
            upstream = Upstream::start(&addr.to_string());
        }
        storm.join().unwrap()
    });
    let count = |what: Came| came.iter().filter(|came| **came == what).count();
    assert!(count(Came::Whole) > CLIENTS, "{came:?}");
    let known = [Came::Whole, Came::Part, Came::Refusal(502)];
    assert!(came.iter().all(|came| known.contains(came)), "{came:?}");
    // Every connection of the dead is found dead before it is used, or replaced without a trace.
    let later = load::storm(&proxy, 8, 8);
    assert!(later.iter().all(|came| *came == Came::Whole), "{later:?}");
    eventually("all clients are closed", || proxy.clients() == 0);
    eventually("descriptors return", || {
        proxy.descriptors() <= before + proxy.sockets_to(addr) + 16
    });
    proxy.signal(Signal::TERM);
    assert!(proxy.exits_within(DEADLINE).success());
}
