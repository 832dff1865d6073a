//! System calls that fail: at the start, where it is told, and under load, where nobody but the
//! exchange concerned notices. strace(1) makes them fail; without it these tests say so and pass.
use std::fs;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::load::{self, Came};
use crate::support::net::{eventually, within};
use crate::support::{Authority, Client, DEADLINE, Folder, Origin, Proxy, Vacant, get, run_by};

const EPOLL: (&str, &str) = ("MONOIO_FORCE_LEGACY_DRIVER", "1");
const ALONE: (&str, &str) = ("WORKERS", "1");

fn is_on_epoll() -> bool {
    std::env::var(EPOLL.0).is_ok()
}

/// The start of a command line under which calls fail, each `name:error=ERRNO:when=WHICH` by
/// strace(1), which counts them for each thread apart. `None`: it cannot be used here.
fn failing(calls: &[&str]) -> Option<Vec<String>> {
    const OPTIONS: [&str; 6] = ["-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"];
    static USABLE: OnceLock<bool> = OnceLock::new();
    let usable = *USABLE.get_or_init(|| {
        let mut trial = Command::new("strace");
        trial
            .args(OPTIONS)
            .args(["-e", "trace=getppid", "-e", "inject=getppid:error=EPERM"])
            .arg("true")
            .stderr(Stdio::null());
        trial.status().is_ok_and(|status| status.success())
    });
    if !usable {
        eprintln!("SKIPPED: strace(1) is not to be had or may not trace, so no call fails");
        return None;
    }
    let name = |call: &&str| call.split(':').next().unwrap().to_owned();
    let names: Vec<_> = calls.iter().map(name).collect();
    let mut launcher = vec!["strace".to_owned()];
    launcher.extend(OPTIONS.map(str::to_owned));
    launcher.extend(["-e".to_owned(), format!("trace={}", names.join(","))]);
    for call in calls {
        launcher.extend(["-e".to_owned(), format!("inject={call}")]);
    }
    Some(launcher)
}

fn start_failing(calls: &[&str], url: &str, settings: &[(&str, &str)]) -> Option<Proxy> {
    let launcher = failing(calls)?;
    let launcher: Vec<_> = launcher.iter().map(String::as_str).collect();
    Some(Proxy::start_by(&launcher, url, settings))
}

#[test]
fn of_several_that_start_at_once_on_one_port_or_path_no_two_listen() {
    // Whatever they look at before that, they have all seen when the first one listens.
    let delays = ["listen:delay_enter=300000", "/^unlink:delay_enter=300000"];
    let Some(launcher) = failing(&delays) else {
        return;
    };
    let launcher: &Vec<_> = &launcher.iter().map(String::as_str).collect();
    let vacant = Vacant::new();
    let url = &vacant.url();
    let port = Vacant::new().addr.port().to_string();
    let folder = Folder::new();
    let path = folder.path("socket");
    drop(UnixListener::bind(&path).unwrap()); // it stays, and nobody listens on it
    for settings in &[[("LISTEN_PORT", &*port)], [("LISTEN_UNIX", &*path)]] {
        let listening = thread::scope(|scope| {
            let begin = |_| scope.spawn(move || Proxy::try_start_by(launcher, url, settings));
            let begun: Vec<_> = (0..4).map(begin).collect();
            // All together, so that none has ended before another begins.
            let begun: Vec<_> = begun.into_iter().map(|it| it.join().unwrap()).collect();
            begun.iter().flatten().count()
        });
        assert!(listening <= 1, "{listening} listen: {settings:?}");
    }
}

#[test]
fn a_ring_that_is_refused_at_any_step_is_done_without_and_the_start_says_why() {
    if is_on_epoll() {
        return; // there is no ring to be refused
    }
    let vacant = Vacant::new();
    for call in [
        "io_uring_setup:error=EPERM:when=1",
        "io_uring_setup:error=ENOMEM:when=2",
        "io_uring_setup:error=ENOMEM:when=1+",
        "io_uring_setup:error=ENOMEM:when=2+",
        "io_uring_setup:error=ENOMEM:when=3+",
        "io_uring_setup:error=EMFILE:when=1..2",
        "io_uring_register:error=EPERM:when=1",
    ] {
        let Some(mut proxy) = start_failing(&[call], &vacant.url(), &[]) else {
            return;
        };
        let line = proxy.logs(&["listening on"]);
        let text = proxy.text();
        let refused = !line.contains(" on io_uring,");
        assert_eq!(refused, text.contains("falling back"), "{call}: {text}");
        assert!(!text.contains(EPOLL.0), "{call}: {text}");
        assert_eq!(
            Client::connect(&proxy).exchange(get("/healthz")).status(),
            200
        );
        proxy.signal(Signal::TERM);
        assert!(proxy.exits_within(DEADLINE).success(), "{call}");
    }
}

#[test]
fn workers_on_different_drivers_are_all_named() {
    if is_on_epoll() {
        return;
    }
    // The first worker asks twice, for the probe is its as well; the others once.
    let call = "io_uring_setup:error=ENOMEM:when=2";
    let vacant = Vacant::new();
    let Some(proxy) = start_failing(&[call], &vacant.url(), &[]) else {
        return;
    };
    proxy.logs(&["2 workers on io_uring and io_uring (plain),"]);
    proxy.logs(&["falling back", "Cannot allocate memory"]);
}

#[test]
fn a_start_that_cannot_be_ends_with_one_line_that_says_so() {
    let no_ring = "io_uring_setup:error=ENOSYS";
    for calls in [
        &["socketpair:error=EMFILE:when=1"][..],
        &["socket:error=EMFILE:when=2"],
        &["bind:error=EACCES:when=2"],
        &["setsockopt:error=ENOBUFS:when=9"],
        &["listen:error=EADDRINUSE:when=2"],
        &["socketpair:error=EMFILE:when=3"],
        &["clone3:error=EAGAIN:when=2"],
        &["clone3:error=EAGAIN:when=3"],
        &["clone3:error=EAGAIN:when=4"],
        &[no_ring, "epoll_create1:error=EMFILE:when=1"],
        &[no_ring, "epoll_ctl:error=ENOSPC:when=1"],
        &[no_ring, "epoll_ctl:error=ENOSPC:when=2"],
    ] {
        let Some(launcher) = failing(calls) else {
            return;
        };
        let launcher: Vec<_> = launcher.iter().map(String::as_str).collect();
        let settings = [
            ("UPSTREAM_BASE_URL", "http://127.0.0.1:9"),
            ("LISTEN_PORT", "0"),
            ("WORKERS", "2"),
        ];
        let ended = run_by(&launcher, &settings);
        assert_eq!(ended.status.code(), Some(1), "{calls:?}: {}", ended.text);
        let is_told = |line: &str| line.starts_with("codex-reset-proxy: cannot ");
        let told = ended.text.lines().filter(|line| is_told(line)).count() == 1;
        assert!(
            told && !ended.text.contains("panicked"),
            "{calls:?}: {}",
            ended.text
        );
    }
}

#[test]
fn a_drain_is_heard_though_waking_a_core_fails_at_first() {
    // The main thread wakes two cores for the upstream's address and then for the drain. The call is
    // one or the other, by the standard library; the signal handler's own is a sendto as well.
    let calls = [
        "sendto:error=ENOBUFS:when=4..5",
        "write:error=ENOBUFS:when=3..4",
    ];
    let vacant = Vacant::new();
    let Some(mut proxy) = start_failing(&calls, &vacant.url(), &[]) else {
        return;
    };
    assert_eq!(
        Client::connect(&proxy).exchange(get("/healthz")).status(),
        200
    );
    proxy.signal(Signal::TERM);
    assert!(proxy.exits_within(DEADLINE).success());
}

#[test]
fn a_connection_that_epoll_refuses_leaves_no_descriptor() {
    const REFUSED: usize = 20;
    let vacant = Vacant::new();
    // After the start and the client: every connection to the upstream.
    let call = "epoll_ctl:error=ENOSPC:when=4+";
    let settings = [EPOLL, ALONE, ("UPSTREAM_MAX_ATTEMPTS", "1")];
    let Some(proxy) = start_failing(&[call], &vacant.url(), &settings) else {
        return;
    };
    let mut client = Client::connect(&proxy);
    let mut refused = || {
        client
            .exchange(get("/"))
            .assert_refusal(502, "upstream_request_error")
    };
    refused();
    let before = proxy.descriptors();
    (0..REFUSED).for_each(|_| refused());
    assert_eq!(proxy.descriptors(), before);
}

#[test]
fn waits_that_always_fail_leave_a_core_that_hears() {
    let vacant = Vacant::new();
    let settings = [EPOLL, ALONE, ("DRAIN_TIMEOUT_SECONDS", "0.5")];
    for call in ["poll:error=ENOMEM:when=30+", "poll:error=EINTR:when=30+"] {
        let Some(mut proxy) = start_failing(&[call], &vacant.url(), &settings) else {
            return;
        };
        for _ in 0..30 {
            let mut client = Client::connect(&proxy);
            client.send(get("/healthz"));
            if !within(Duration::from_millis(200), || client.has_answer()) {
                client.leave();
                break;
            }
            let _ = client.try_response("GET");
        }
        proxy.signal(Signal::TERM);
        assert!(proxy.exits_within(DEADLINE).success(), "{call}");
    }
}

/// What a failing call may cost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Costs {
    /// Nothing: it is done again, or another way.
    Nothing,
    /// The exchange that it belongs to.
    Exchange,
}
use Costs::{Exchange, Nothing};

/// By turns from some call on: the main thread never makes so many. recv(2) never says EAGAIN while
/// there is something to read, which on epoll would lose the edge that told of it.
const FAILING: &[(&str, Costs)] = &[
    ("accept4:error=ECONNABORTED:when=2+2", Nothing),
    ("accept4:error=EMFILE:when=2+3", Nothing),
    ("accept4:error=ENOBUFS:when=2+3", Nothing),
    ("accept4:error=EPROTO:when=2+3", Nothing),
    ("recvfrom:error=EINTR:when=30+3", Nothing),
    ("recvfrom:error=ENOMEM:when=30+11", Exchange),
    ("recvfrom:error=ECONNRESET:when=30+7", Exchange),
    ("sendto:error=EPIPE:when=30+50", Exchange),
    ("sendmsg:error=EAGAIN:when=2+2", Nothing),
    ("sendmsg:error=ECONNRESET:when=4+7", Exchange),
    ("splice:error=EAGAIN:when=2+2", Nothing),
    ("splice:error=EINTR:when=3+2", Nothing),
    ("splice:error=ENOMEM:when=5+7", Exchange),
    ("pipe2:error=EMFILE:when=1+2", Nothing),
    ("fcntl:error=EPERM:when=3+2", Nothing),
    ("socket:error=EMFILE:when=4+3", Exchange),
    ("setsockopt:error=ENOBUFS:when=40+7", Exchange),
    ("connect:error=EADDRNOTAVAIL:when=2+3", Exchange),
    ("getsockopt:error=ENOBUFS:when=2+3", Exchange),
    ("shutdown:error=ENOTCONN:when=1+2", Nothing),
    ("poll:error=EINTR:when=3+2", Nothing),
    ("epoll_wait:error=EINTR:when=5+3", Nothing),
    ("epoll_wait:error=ENOMEM:when=5+3", Nothing),
    ("epoll_ctl:error=ENOMEM:when=8+5", Exchange),
    ("io_uring_enter:error=EINTR:when=5+2", Nothing),
    ("io_uring_enter:error=EAGAIN:when=5+3", Nothing),
    ("io_uring_enter:error=EBUSY:when=5+3", Nothing),
    ("io_uring_enter:error=ENOMEM:when=5+3", Nothing),
];

/// Of these, what TLS has a way of its own to deal with.
const FAILING_UNDER_TLS: &[&str] = &["recvfrom", "sendto", "poll", "io_uring_enter", "shutdown"];

#[test]
fn a_call_that_fails_under_load_costs_its_exchange_at_most() {
    const AT_ONCE: usize = 4;
    let authority = Authority::new();
    let plain = FAILING.iter().map(|(call, costs)| (*call, *costs, None));
    let over_tls = plain.clone().filter(|(call, ..)| {
        let name = call.split(':').next().unwrap();
        FAILING_UNDER_TLS.contains(&name)
    });
    let over_tls = over_tls.map(|(call, costs, _)| (call, costs, Some(&authority)));
    let left = Mutex::new(plain.clone().chain(over_tls));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = left.lock().unwrap().next();
                    let Some((call, costs, tls)) = next else {
                        return;
                    };
                    withstands(call, costs, tls);
                }
            });
        }
    });
}

fn withstands(call: &str, costs: Costs, tls: Option<&Authority>) {
    const CLIENTS: usize = 6;
    const REQUESTS: usize = 20;
    const CONNECTIONS_MAX: usize = CLIENTS * REQUESTS * 3;
    let origin = match tls {
        None => Origin::serves(CONNECTIONS_MAX, load::answer),
        Some(authority) => Origin::serves_tls(authority, CONNECTIONS_MAX, load::answer),
    };
    let mut settings = vec![ALONE];
    settings.extend(tls.map(|authority| ("UPSTREAM_CA_FILE", authority.file())));
    let Some(mut proxy) = start_failing(&[call], &origin.url(), &settings) else {
        return;
    };
    let before = proxy.descriptors();
    let came = load::storm(&proxy, CLIENTS, REQUESTS);
    let whole = came.iter().filter(|came| **came == Came::Whole).count();
    let least = if costs == Nothing {
        came.len()
    } else {
        came.len() / 4
    };
    assert!(whole >= least, "{call}: {came:?}");
    let known =
        |came: &Came| !matches!(came, Came::Refusal(status) if !matches!(status, 502 | 504));
    assert!(came.iter().all(known), "{call}: {came:?}");
    eventually("all clients are closed", || proxy.clients() == 0);
    let idle = || proxy.sockets_to(origin.addr);
    // A pipe or two may be kept for the next splice.
    let returned = within(DEADLINE, || proxy.descriptors() <= before + idle() + 16);
    assert!(returned, "{call}: {} descriptors", proxy.descriptors());
    assert_idle(&proxy, call);
    proxy.signal(Signal::TERM);
    assert!(proxy.exits_within(DEADLINE).success(), "{call}");
}

/// It has nothing to do, and does nothing.
fn assert_idle(proxy: &Proxy, call: &str) {
    let (start, spent) = (Instant::now(), processor_time(proxy));
    thread::sleep(Duration::from_millis(200)); // what it does meanwhile is the question
    let (passed, spent) = (start.elapsed(), processor_time(proxy) - spent);
    let text = format!("{call}: {spent:?} of {passed:?} with nothing to do");
    assert!(spent <= passed / 4, "{text}");
}

/// In user and kernel mode, of all threads, by proc_pid_stat(5).
fn processor_time(proxy: &Proxy) -> Duration {
    let stat = format!("/proc/{}/stat", proxy.pid().as_raw_nonzero());
    let stat = fs::read_to_string(stat).unwrap();
    let (_, after_name) = stat.rsplit_once(") ").unwrap();
    let ticks = after_name.split(' ').skip(11).take(2);
    let ticks: u32 = ticks.map(|count| count.parse::<u32>().unwrap()).sum();
    Duration::from_secs(1) / 100 * ticks
}
