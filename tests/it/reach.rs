//! What a client sees, and after how long, when the network between proxy and upstream lies: each in
//! network namespaces, with packets that are really dropped. The same of nginx, for the table in
//! bench/README.md: `cargo test --test it reach::table -- --ignored --nocapture`.
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::names::{Names, Says};
use crate::support::net::{eventually, on_one_port, swallow_all};
use crate::support::network::{FAR, Network};
use crate::support::{Authority, OK, Origin, Peer, Proxy, Vacant, get, sockets};

/// RESPONSE_HEADER_TIMEOUT_SECONDS, by default.
const LIMIT: &str = "30";
/// The default of CONNECT_TIMEOUT_SECONDS, and a second.
const CONNECTED: Duration = Duration::from_secs(11);
/// Longer than anybody takes for two attempts.
const PATIENCE: Duration = Duration::from_secs(90);
/// Names the contestant of a run for the table.
const TABLE: &str = "CODEX_RESET_PROXY_TEST_TABLE";

/// What the upstream is at one of its addresses.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Good,
    Refuses,
    /// The kernel accepts, and nobody reads.
    Hangs,
    /// Packets are dropped.
    Swallows,
}

struct Scene {
    /// As the table calls it.
    name: &'static str,
    at: &'static [At],
    /// So many of the addresses are known by the name at first.
    named: usize,
    tls: bool,
    /// Requests at the same time that have been answered before, each on a connection of its own.
    before: usize,
    /// What happens then.
    then: fn(&mut Stage),
    /// The proxy's limit where no table is made.
    limit: &'static str,
    /// What its client has to see, by when, and after how many sends.
    what: &'static str,
    within: Duration,
    sends: usize,
}

const SCENE: Scene = Scene {
    name: "",
    at: &[At::Good],
    named: 2,
    tls: false,
    before: 0,
    then: |_| (),
    limit: LIMIT,
    what: "200",
    within: CONNECTED,
    sends: 1,
};

struct Stage {
    network: Network,
    names: Names,
    next: Arc<Mutex<Next>>,
    /// Both ends of each connection that the upstream has accepted.
    accepted: Arc<Mutex<Vec<TcpStream>>>,
}

/// What a good upstream does with the next request.
#[derive(Clone, Copy, Default)]
enum Next {
    #[default]
    Answer,
    Hang,
    Reset,
    Break,
}

impl Stage {
    fn will(&mut self, next: Next) {
        *self.next.lock().unwrap() = next;
    }

    /// As when a NAT forgets them: nothing arrives any more on connections that are there.
    fn forgets(&mut self) {
        self.accepted.lock().unwrap().iter().for_each(swallow_all);
    }

    /// A good upstream on this listener.
    fn plays(&self, listener: TcpListener, authority: Option<&Authority>) -> Origin {
        let (next, accepted) = (self.next.clone(), self.accepted.clone());
        let play = move |peer: &mut Peer| {
            let tcp = peer.wire().stream.tcp().try_clone().unwrap();
            accepted.lock().unwrap().push(tcp);
            while let Some(request) = peer.next_whole_request() {
                if request.head.line().contains("/before") {
                    thread::sleep(Duration::from_millis(500)); // each on a connection of its own
                    peer.send(OK);
                    continue;
                }
                let now = std::mem::take(&mut *next.lock().unwrap());
                if matches!(now, Next::Reset | Next::Break) {
                    accepted.lock().unwrap().clear(); // or it would stay open
                }
                match now {
                    Next::Answer => peer.send(OK),
                    Next::Hang => drop(peer.is_closed()),
                    Next::Reset => peer.reset(),
                    Next::Break => {
                        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all of it");
                        peer.until_taken();
                        peer.reset();
                    }
                }
                if !peer.is_open() {
                    return;
                }
            }
        };
        match authority {
            Some(authority) => Origin::serves_tls_on(listener, authority, usize::MAX, play),
            None => Origin::serves_on(listener, usize::MAX, play),
        }
    }
}

/// Runs the scene of this test: before the proxy, or before whom the table is made of.
fn shows(test: &str, scene: &Scene) {
    let Some(network) = Network::of(&format!("reach::{test}")) else {
        return;
    };
    let addresses = FAR[..scene.named.min(scene.at.len())]
        .iter()
        .copied()
        .map(IpAddr::from);
    let Some(names) = Names::new(Says::Addresses(addresses.collect())) else {
        return;
    };
    let listeners = network.there(|| on_one_port(FAR));
    let port = listeners[0].local_addr().unwrap().port();
    let mut stage = Stage {
        next: Arc::default(),
        accepted: Arc::default(),
        names,
        network,
    };
    let authority = Authority::of(&["upstream.example"]);
    let (mut hanging, mut origins) = (Vec::new(), Vec::new());
    for ((listener, addr), at) in listeners.into_iter().zip(FAR).zip(scene.at) {
        match at {
            At::Good => origins.push(stage.plays(listener, scene.tls.then_some(&authority))),
            At::Hangs => hanging.push(listener),
            At::Refuses => (),
            At::Swallows => stage.network.swallows(addr),
        }
    }
    let url = match scene.tls {
        true => format!("https://upstream.example:{port}"),
        false => format!("http://upstream.example:{port}"),
    };
    let contestant = std::env::var(TABLE).ok();
    let behind = match contestant.as_deref() {
        Some("nginx") => Behind::nginx(&stage.names, &url),
        Some(_) => Behind::proxy(&stage.names, &url, &authority, LIMIT),
        None => Behind::proxy(&stage.names, &url, &authority, scene.limit),
    };
    let before: Vec<_> = (0..scene.before).map(|_| behind.asks("/before")).collect();
    for before in before {
        assert_eq!(before.join().unwrap().what, "200");
    }
    // Or it would be sent again, and so the upstream be heard of.
    stage.network.there(|| {
        eventually("all is acknowledged", || {
            let all = sockets::all(); // of a listener it is the length of its queue
            all.iter()
                .all(|socket| socket.unacked == 0 || socket.remote.port() == 0)
        });
    });
    (scene.then)(&mut stage);
    let seen = behind.asks("/").join().unwrap();
    let (what, after) = (seen.what, seen.after.as_secs_f64());
    let sends = match &behind {
        Behind::Proxy(_) => seen.attempts,
        Behind::Nginx(nginx) => nginx.sends(scene.before + 1),
    };
    match contestant {
        Some(name) => println!(
            "| {} | {name} | {what} | {after:.1} s | {sends} |",
            scene.name
        ),
        None => {
            assert_eq!((what.as_str(), sends), (scene.what, scene.sends));
            assert!(seen.after < scene.within, "after {after} s");
        }
    }
}

/// What a client has seen.
struct Seen {
    /// The status, or what there was instead.
    what: String,
    after: Duration,
    attempts: usize,
}

/// Who stands between the client and the upstream.
enum Behind {
    Proxy(Proxy),
    Nginx(Nginx),
}

impl Behind {
    fn proxy(names: &Names, url: &str, authority: &Authority, limit: &str) -> Self {
        let settings = [
            ("WORKERS", "1"),
            ("UPSTREAM_CA_FILE", authority.file()),
            ("RESPONSE_HEADER_TIMEOUT_SECONDS", limit),
            ("LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS", LIMIT),
        ];
        Self::Proxy(Proxy::start_by(&names.launcher(), url, &settings))
    }

    fn nginx(names: &Names, url: &str) -> Self {
        Self::Nginx(Nginx::start(names, url))
    }

    /// Sends a request and waits for what becomes of it, in a thread of its own.
    fn asks(&self, path: &str) -> JoinHandle<Seen> {
        let addr = match self {
            Self::Proxy(proxy) => proxy.addr,
            Self::Nginx(nginx) => nginx.addr,
        };
        let request = get(path).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        thread::spawn(move || {
            let mut tcp = TcpStream::connect(addr).unwrap();
            tcp.set_read_timeout(Some(PATIENCE)).unwrap();
            let start = Instant::now();
            tcp.write_all(request.as_bytes()).unwrap();
            let mut response = Vec::new();
            let end = tcp.read_to_end(&mut response);
            let after = start.elapsed();
            let response = String::from_utf8(response).unwrap().to_lowercase();
            let status = response.get(9..12).unwrap_or("nothing");
            let field = |name: &str| Some(response.split_once(name)?.1.split_once("\r\n")?.0);
            let length = field("\r\ncontent-length: ").map_or(0, |length| length.parse().unwrap());
            let body = response
                .split_once("\r\n\r\n")
                .map_or(0, |(_, body)| body.len());
            let attempts = field("\r\nx-codex-reset-proxy-attempts: ");
            Seen {
                what: match end.is_err() || body < length {
                    true => format!("{status}, broken off"),
                    false => status.to_owned(),
                },
                after,
                attempts: attempts.map_or(0, |count| count.parse().unwrap()),
            }
        })
    }
}

/// nginx with the same limits, two tries and kept connections, killed in the end.
struct Nginx {
    child: Child,
    folder: PathBuf,
    addr: SocketAddr,
}

impl Nginx {
    fn start(names: &Names, url: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("codex-reset-proxy-nginx-{}", process::id()));
        fs::create_dir(&folder).unwrap();
        let addr = Vacant::new().addr;
        let (scheme, server) = url.split_once("://").unwrap();
        let text = NGINX
            .replace("LISTEN", &addr.to_string())
            .replace("SERVER", server)
            .replace("SCHEME", scheme)
            .replace("DIR", folder.to_str().unwrap());
        let conf = folder.join("conf");
        fs::write(&conf, text).unwrap();
        let [program, arguments @ ..] = names.launcher();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args(["/usr/sbin/nginx", "-e", "stderr", "-c"]);
        let child = command.arg(conf).stdin(Stdio::null()).spawn().unwrap();
        eventually("nginx accepts", || TcpStream::connect(addr).is_ok());
        Self {
            child,
            folder,
            addr,
        }
    }

    /// How often the last of `count` requests was sent: tries of which bytes went up.
    fn sends(&self, count: usize) -> usize {
        let mut text = String::new();
        eventually("nginx logs it", || {
            text = fs::read_to_string(self.folder.join("log")).unwrap();
            text.lines().count() == count
        });
        let tries = text.lines().last().unwrap().split(", ");
        tries.filter(|bytes| !matches!(*bytes, "0" | "-")).count()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A server is asked once for a request: the second line is the second attempt.
const NGINX: &str = "
daemon off;
user root;
pid DIR/pid;
error_log stderr crit;
events {}
http {
    log_format sent $upstream_bytes_sent;
    access_log DIR/log sent;
    client_body_temp_path DIR/body;
    proxy_temp_path DIR/proxy;
    fastcgi_temp_path DIR/fastcgi;
    uwsgi_temp_path DIR/uwsgi;
    scgi_temp_path DIR/scgi;
    upstream origin {
        server SERVER max_fails=0;
        server SERVER max_fails=0;
        keepalive 32;
    }
    proxy_http_version 1.1;
    proxy_set_header Connection '';
    proxy_connect_timeout 10s;
    proxy_send_timeout 30s;
    proxy_read_timeout 30s;
    proxy_next_upstream error timeout non_idempotent;
    proxy_next_upstream_tries 2;
    server {
        listen LISTEN;
        location / { proxy_pass SCHEME://origin; }
    }
}
";

macro_rules! scenes {
    ($($test:ident: $scene:expr;)*) => {
        const TESTS: &[&str] = &[$(stringify!($test)),*];
        $(#[test] fn $test() { shows(stringify!($test), &$scene); })*
    };
}

scenes! {
    connections_that_a_nat_forgot: Scene {
        name: "a NAT has forgotten the pooled connection",
        before: 1,
        then: |stage| stage.forgets(),
        sends: 2,
        ..SCENE
    };
    several_that_a_nat_forgot: Scene {
        name: "the same, three connections pooled",
        before: 3,
        then: |stage| stage.forgets(),
        sends: 2,
        ..SCENE
    };
    an_address_of_ours_that_has_gone: Scene {
        name: "we have moved: the local address is gone",
        before: 3,
        then: |stage| stage.network.moves(),
        sends: 2,
        ..SCENE
    };
    the_same_over_tls: Scene {
        name: "the same over TLS",
        tls: true,
        before: 3,
        then: |stage| stage.network.moves(),
        sends: 2,
        ..SCENE
    };
    a_pooled_connection_that_is_reset_at_its_use: Scene {
        name: "the pooled connection is reset when it is used",
        before: 1,
        then: |stage| stage.will(Next::Reset),
        sends: 2,
        ..SCENE
    };
    a_fresh_connection_that_is_reset: Scene {
        name: "a new connection is reset once",
        then: |stage| stage.will(Next::Reset),
        sends: 2,
        ..SCENE
    };
    one_of_two_that_swallows: Scene {
        name: "one address of two swallows all packets",
        at: &[At::Swallows, At::Good],
        ..SCENE
    };
    one_of_two_that_refuses: Scene {
        name: "one refuses",
        at: &[At::Refuses, At::Good],
        ..SCENE
    };
    one_of_two_that_accepts_and_hangs: Scene {
        name: "one accepts and hangs",
        at: &[At::Hangs, At::Good],
        limit: "2",
        sends: 2,
        ..SCENE
    };
    one_of_two_that_hangs_in_the_handshake: Scene {
        name: "one accepts and hangs, TLS",
        at: &[At::Hangs, At::Good],
        tls: true,
        ..SCENE
    };
    all_that_swallow: Scene {
        name: "both swallow all packets",
        at: &[At::Swallows, At::Swallows],
        what: "504",
        within: Duration::from_secs(40), // two attempts
        sends: 0,
        ..SCENE
    };
    a_request_that_hangs_once: Scene {
        name: "the upstream hangs once before a response",
        then: |stage| stage.will(Next::Hang),
        limit: "2",
        sends: 2,
        ..SCENE
    };
    a_response_that_breaks_off: Scene {
        name: "the upstream dies in the middle of a response",
        then: |stage| stage.will(Next::Break),
        what: "200, broken off",
        ..SCENE
    };
    a_name_that_has_moved: Scene {
        name: "the name has moved, its old address swallows all",
        at: &[At::Good, At::Good],
        named: 1,
        before: 1,
        then: |stage| {
            stage.names.say(Says::these([FAR[1]]));
            stage.network.swallows(FAR[0]);
        },
        within: Duration::from_secs(30), // the old one has an attempt of its own
        sends: 2,
        ..SCENE
    };
    a_name_that_has_vanished: Scene {
        name: "the name has vanished, its address is well",
        before: 1,
        then: |stage| stage.names.say(Says::NoSuchName),
        ..SCENE
    };
}

#[test]
#[ignore = "takes minutes, and shows more than it asserts"]
fn table() {
    println!("| network | | the client saw | after | sends |\n| :-- | :-- | :-- | --: | --: |");
    let run = |test: &&str, contestant: &str| {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args([&format!("reach::{test}"), "--exact", "--nocapture"]);
        let output = again.env(TABLE, contestant).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let row = text.lines().find(|line| line.starts_with("| "));
        row.map_or_else(|| format!("{test}, {contestant}: {text}"), str::to_owned)
    };
    for test in TESTS {
        let rows = thread::scope(|scope| {
            ["proxy", "nginx"]
                .map(|name| scope.spawn(move || run(test, name)))
                .map(|row| row.join().unwrap())
        });
        rows.iter().for_each(|row| println!("{row}"));
    }
}
