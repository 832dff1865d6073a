//! What Prometheus is told: every series from the start, of all cores together, never going back, as
//! the README says and as the dashboard and the alerts expect.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::SystemTime;

use crate::support::load::{Came, answer, storm};
use crate::support::metrics::{ADMIN, Numbers};
use crate::support::net::eventually;
use crate::support::{Client, OK, Origin, Proxy, act, answers, closes, get, post, soon};

const ALONE: (&str, &str) = ("WORKERS", "1");
const BUDGET: (&str, &str) = ("RETRY_BUDGET_PERCENT", "50");
const PREFIX: &str = "codex_reset_proxy_";

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn every_series_is_there_from_the_start_and_no_request_adds_one() {
    let last = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let origin = Origin::plays([answers(last), closes(), answers(last), closes(), closes()]);
    let proxy = Proxy::start(&origin, &[ADMIN]);
    let before = Numbers::of(&proxy);
    let begun: Vec<_> = before
        .growing()
        .filter(|(_, value)| *value != 0.0)
        .collect();
    assert_eq!(begun, []);
    assert_eq!(before.sum("exchanges_in_flight"), 0);
    for target in ["/one", "/two", "/three?x=\""] {
        Client::connect(&proxy).exchange(get(target));
    }
    let after = Numbers::after(&proxy, 3);
    let names = |numbers: &Numbers| numbers.series().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&before), names(&after));
}

#[test]
fn numbers_are_sums_over_all_cores_and_never_go_back() {
    const CLIENTS: usize = 16;
    const REQUESTS: usize = 12;
    let origin = Origin::serves(CLIENTS * REQUESTS, answer);
    let proxy = Proxy::start(&origin, &[ADMIN, ("WORKERS", "2")]);
    let (done, is_done) = mpsc::channel::<()>();
    let proxy = &proxy;
    let came = thread::scope(move |scope| {
        let looks = scope.spawn(move || {
            let mut last = Numbers::of(proxy);
            let mut count = 0;
            while is_done.try_recv() == Err(mpsc::TryRecvError::Empty) {
                let now = Numbers::of(proxy);
                for ((name, before), (_, after)) in last.growing().zip(now.growing()) {
                    assert!(before <= after, "{name}: {before}, then {after}");
                }
                last = now;
                count += 1;
            }
            count
        });
        let came = storm(proxy, CLIENTS, REQUESTS);
        drop(done);
        assert!(looks.join().unwrap() > 0);
        came
    });
    let all = (CLIENTS * REQUESTS) as u64;
    assert_eq!(came, vec![Came::Whole; CLIENTS * REQUESTS]);
    let numbers = Numbers::after(proxy, all);
    let requests = origin.requests();
    let up = requests
        .iter()
        .map(|request| request.head.0.len() + request.body.len());
    let connects = numbers.sum("connects_total{result=ok}");
    for (series, count) in [
        ("exchanges_total{outcome=answered}", all),
        ("attempts_total", all),
        ("client_accepts_total", CLIENTS as u64),
        ("pool_takes_total", all),
        ("pool_takes_total{result=miss}", connects),
        ("request_bytes_total", up.sum::<usize>() as u64),
        ("response_header_wait_seconds_count", all),
        ("exchange_duration_seconds_count", all),
        ("workers", 2),
        ("silent_workers", 0),
    ] {
        assert_eq!(numbers.sum(series), count, "{series}");
    }
    assert_buckets_grow(&numbers);
}

/// Each bucket has what those below it have; the last has all.
fn assert_buckets_grow(numbers: &Numbers) {
    let mut last = BTreeMap::new();
    let lines = numbers
        .text
        .lines()
        .filter(|line| line.contains("_bucket{"));
    for line in lines {
        let (series, count) = line.rsplit_once(' ').unwrap();
        let (series, bound) = series.split_once("le=").unwrap();
        let count: u64 = count.parse().unwrap();
        let bound: f64 = bound.trim_matches(['"', '}']).parse().unwrap();
        if let Some((below, fewer)) = last.insert(series, (bound, count)) {
            assert!(below < bound && fewer <= count, "{line}");
        }
    }
    assert!(last.len() > 5);
    for (series, (bound, all)) in last {
        let series = series.trim_start_matches(PREFIX).replace('"', "");
        let count = series.replace("_bucket", "_count");
        let count = count.trim_end_matches([',', '{']);
        assert_eq!(
            (bound, all),
            (f64::INFINITY, numbers.sum(count)),
            "{series}"
        );
    }
}

#[test]
fn what_is_held_is_told_while_it_is_held() {
    let (asked, was_asked) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let origin = Origin::plays([act(move |peer| {
        peer.request();
        asked.send(()).unwrap();
        soon(&may_go_on);
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
        peer.until_taken();
        soon(&may_go_on);
        peer.send("k");
    })]);
    let patient = ("RESPONSE_HEADER_TIMEOUT_SECONDS", "60");
    let limit = ("MAX_BUFFERED_BYTES", "123456");
    let proxy = Proxy::start(&origin, &[ALONE, ADMIN, BUDGET, patient, limit]);
    let told = |expected: [(&str, f64); 7]| {
        let look = |name: &str| Numbers::of(&proxy).value(name);
        for (name, value) in expected {
            eventually(name, || look(name) == value);
        }
    };
    let mut client = Client::connect(&proxy);
    client.send(post("/", &[b'x'; 1000]));
    soon(&was_asked);
    told([
        ("exchanges_in_flight{phase=header}", 1.0),
        ("client_connections", 1.0),
        ("buffered_body_bytes", 1000.0),
        ("buffered_body_limit_bytes", 123_456.0),
        ("idle_upstream_connections", 0.0),
        ("client_connections_limit", 10_000.0),
        ("draining", 0.0),
    ]);
    assert!(Numbers::of(&proxy).value("replays_left") > 0.0);
    go_on.send(()).unwrap();
    client.head();
    told([
        ("exchanges_in_flight{phase=header}", 0.0),
        ("exchanges_in_flight{phase=relay}", 1.0),
        ("exchanges_total{outcome=answered}", 0.0),
        ("response_header_wait_seconds_count{attempt=1}", 1.0),
        ("buffered_body_bytes", 0.0),
        ("idle_upstream_connections", 0.0),
        ("followed_responses", 0.0),
    ]);
    go_on.send(()).unwrap();
    client.receive("ok");
    told([
        ("exchanges_in_flight{phase=relay}", 0.0),
        ("exchanges_total{outcome=answered}", 1.0),
        ("client_connections", 1.0),
        ("idle_upstream_connections", 1.0),
        ("buffered_body_bytes", 0.0),
        ("followed_responses", 0.0),
        ("draining", 0.0),
    ]);
}

#[test]
fn a_process_is_told_of_as_any_other() {
    let origin = Origin::plays([]);
    let before = SystemTime::now();
    let proxy = Proxy::start(&origin, &[ADMIN]);
    let numbers = Numbers::of(&proxy);
    let after = SystemTime::now();
    let unix = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap().as_secs_f64()
    };
    let started = numbers.value("process_start_time_seconds");
    assert!(
        unix(before) <= started && started <= unix(after),
        "{started}"
    );
    let resident = numbers.value("process_resident_memory_bytes");
    let by_proc = (proxy.resident_kib() * 1024) as f64;
    assert!(
        by_proc / 2.0 < resident && resident < by_proc * 2.0,
        "{resident} and {by_proc}"
    );
    let clients: Vec<_> = (0..50).map(|_| Client::connect(&proxy)).collect();
    eventually("each connection is a descriptor", || {
        let open = Numbers::of(&proxy).sum("process_open_fds") as usize;
        // To ask takes a few.
        proxy.clients() == 50 && open.abs_diff(proxy.descriptors()) <= 8
    });
    drop(clients);
    let max = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    assert_eq!(numbers.value("process_max_fds"), max.unwrap() as f64);
    let cpu = numbers.value("process_cpu_seconds_total");
    assert!(cpu > 0.0, "{cpu}");
    let burnt = || Numbers::of(&proxy).value("process_cpu_seconds_total") > cpu;
    eventually("looking costs time", burnt);
    let driver = match std::env::var_os("MONOIO_FORCE_LEGACY_DRIVER") {
        Some(_) => "epoll",
        None => numbers
            .text
            .split("driver=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap(),
    };
    let version = env!("CARGO_PKG_VERSION");
    let build = format!("build_info{{version={version},driver={driver}}}");
    assert_eq!(numbers.value(&build), 1.0);
    assert!(proxy.text().contains(&format!("on {driver}, ")), "{driver}");
}

/// A family as its lines tell of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    kind: String,
    labels: BTreeSet<String>,
    help: String,
}

fn families(text: &str) -> BTreeMap<String, Told> {
    let mut families = BTreeMap::<String, Told>::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            current = name.to_owned();
            let twice = families.insert(current.clone(), Told::default());
            assert_eq!(twice, None, "{name} comes twice");
            families.get_mut(name).unwrap().help = help.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            families.get_mut(name).unwrap().kind = kind.to_owned();
        } else {
            let labels = line.split_once('{').map_or("", |(_, rest)| rest);
            let names = labels
                .split("=\"")
                .filter_map(|part| part.rsplit([',', '"']).next());
            let told = families.get_mut(&current).unwrap();
            let name = |name: &&str| !matches!(*name, "" | "le") && !name.starts_with('}');
            told.labels.extend(names.filter(name).map(str::to_owned));
        }
    }
    families
}

#[test]
fn the_readme_tells_of_every_metric_what_it_tells_of_itself() {
    let proxy = Proxy::start(&Origin::plays([]), &[ADMIN, BUDGET]);
    let row = |(name, told): (&String, &Told)| {
        let labels: Vec<_> = told.labels.iter().map(|name| format!("`{name}`")).collect();
        let name = name.trim_start_matches(PREFIX);
        format!(
            "| `{name}` | {} | {} | {} |",
            told.kind,
            labels.join(", "),
            told.help
        )
    };
    let families = families(&Numbers::of(&proxy).text);
    let own = families.iter().filter(|(name, _)| name.starts_with(PREFIX));
    let rows: BTreeSet<_> = own.map(row).collect();
    let readme = file("README.md");
    let (_, table) = readme
        .split_once("| metric | type | labels | what it says |\n|---|---|---|---|\n")
        .unwrap();
    let table = table.split("\n\n").next().unwrap();
    let written: BTreeSet<_> = table.lines().map(str::to_owned).collect();
    let missing: Vec<_> = rows.difference(&written).cloned().collect();
    let wrong: Vec<_> = written.difference(&rows).cloned().collect();
    assert!(
        rows == written,
        "missing:\n{}\nwrong:\n{}",
        missing.join("\n"),
        wrong.join("\n")
    );
    for name in families.keys().filter(|name| !name.starts_with(PREFIX)) {
        assert!(readme.contains(&format!("`{name}`")), "{name}");
    }
}

/// Every selector of a file in PromQL, as `name` and `label="value"` pairs.
fn selectors(text: &str) -> Vec<(String, Vec<String>)> {
    let text = text.replace("\\\"", "\"");
    let mut found = Vec::new();
    for (at, _) in text.match_indices(PREFIX) {
        let rest = &text[at + PREFIX.len()..];
        let end = rest
            .find(|c: char| !c.is_ascii_lowercase() && c != '_')
            .unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let labels = match rest.strip_prefix('{') {
            Some(labels) => labels.split_once('}').unwrap().0,
            None => "",
        };
        let pairs = labels
            .split(',')
            .filter(|pair| pair.contains("=\"") && !pair.contains(['$', '!']));
        found.push((
            name.to_owned(),
            pairs.map(|pair| pair.trim().replace('"', "")).collect(),
        ));
    }
    found
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_what_there_is() {
    let proxy = Proxy::start(&Origin::plays([]), &[ADMIN, BUDGET]);
    let numbers = Numbers::of(&proxy);
    for (path, least) in [
        ("bench/observe/dashboard.json", 20),
        ("bench/observe/alerts.yml", 5),
    ] {
        let selectors = selectors(&file(path));
        assert!(selectors.len() >= least, "{path}: {selectors:?}");
        for (name, labels) in selectors {
            let fits = |series: &String| {
                let own = series.split('{').next() == Some(&*name);
                own && labels.iter().all(|pair| series.contains(&**pair))
            };
            let there = numbers.series().keys().any(fits);
            assert!(
                there,
                "{path} asks for {name}{labels:?}, which there is not"
            );
        }
    }
}

/// promtool(1), if it is installed.
fn promtool(arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let mut command = Command::new("promtool");
    command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("SKIPPED: promtool is not installed, nobody checks {arguments:?}");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(input.as_bytes()); // it may not want it
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8(said).unwrap()))
}

#[test]
fn promtool_finds_no_fault_with_the_metrics() {
    let origin = Origin::plays([answers(OK)]);
    let proxy = Proxy::start(&origin, &[ADMIN, BUDGET]);
    Client::connect(&proxy).exchange(get("/"));
    let text = Numbers::after(&proxy, 1).text;
    let Some(said) = promtool(&["check", "metrics"], &text) else {
        return;
    };
    assert_eq!(said, (true, String::new()));
    // It has been asked.
    let (fine, _) = promtool(&["check", "metrics"], "counted 1\n").unwrap();
    assert!(!fine);
}

#[test]
fn promtool_finds_no_fault_with_the_alerts_and_they_fire_when_they_should() {
    for (arguments, succeeds) in [
        (
            ["check", "config", "bench/observe/prometheus.yml"],
            "SUCCESS",
        ),
        (
            ["check", "rules", "bench/observe/alerts.yml"],
            "SUCCESS: 3 rules found",
        ),
        (
            ["test", "rules", "bench/observe/alerts_test.yml"],
            "SUCCESS",
        ),
    ] {
        if let Some((fine, said)) = promtool(&arguments, "") {
            assert!(fine && said.contains(succeeds), "{arguments:?}: {said}");
        }
    }
}
