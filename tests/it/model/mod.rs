//! Random scripts of clients and upstreams, played by the thousand against one proxy and judged by the
//! contract.
//!
//! A failure says which seed to repeat: `MODEL_SEED`, with `MODEL_COUNT` scripts from there on.
mod client;
mod message;
mod oracle;
mod script;
mod upstream;
mod verdict;

use std::any::Any;
use std::collections::hash_map::RandomState;
use std::env;
use std::hash::BuildHasher;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::net::within;
use crate::support::{Authority, Client, DEADLINE, Origin, Peer, Proxy, get};
use client::{Visit, visit};
use oracle::{IDLE_LIMIT, judge};
use script::{Climate, Script};
use upstream::{Part, Send, World};

/// Scripts under way at a time.
const CLIENTS: usize = 64;
/// Scripts that are judged together, when nothing of them is under way any more.
const BATCH: u64 = 500;
/// Failures that are told in full.
const TOLD_MAX: usize = 3;
/// No upstream is silent, so the proxy never gives up, however slow the machine.
const PATIENT: Climate = Climate {
    tls: false,
    attempts: 2,
    header_limit: Duration::from_secs(30),
    silences: false,
};
const IMPATIENT: Climate = Climate {
    attempts: 3,
    header_limit: Duration::from_millis(400),
    silences: true,
    ..PATIENT
};

#[test]
fn whatever_both_sides_do_the_contract_holds() {
    run(PATIENT, 2500);
}

#[test]
fn whatever_both_sides_do_the_contract_holds_with_a_single_attempt() {
    run(
        Climate {
            attempts: 1,
            ..PATIENT
        },
        500,
    );
}

#[test]
fn whatever_both_sides_do_the_contract_holds_over_tls() {
    run(
        Climate {
            tls: true,
            ..PATIENT
        },
        500,
    );
}

#[test]
fn whatever_both_sides_do_the_contract_holds_where_upstreams_fall_silent() {
    run(IMPATIENT, 750);
}

#[test]
fn whatever_both_sides_do_the_contract_holds_where_upstreams_fall_silent_over_tls() {
    run(
        Climate {
            tls: true,
            ..IMPATIENT
        },
        250,
    );
}

fn run(climate: Climate, count: u64) {
    let of_environment = |name| env::var(name).ok().map(|value| value.parse().unwrap());
    let first =
        of_environment("MODEL_SEED").unwrap_or_else(|| RandomState::new().hash_one(0) >> 32);
    let count = of_environment("MODEL_COUNT").unwrap_or(count);
    println!("MODEL_SEED={first} MODEL_COUNT={count}");
    let world = Arc::new(World::default());
    let stage = Arc::clone(&world);
    let play = move |peer: &mut Peer| stage.serve(peer);
    let authority = Authority::new();
    let origin = match climate.tls {
        false => Origin::serves(usize::MAX, play),
        true => Origin::serves_tls(&authority, usize::MAX, play),
    };
    let proxy = start(&origin, climate, &authority);
    let descriptors = proxy.descriptors();
    let mut failures = Vec::new();
    for start in (0..count).step_by(BATCH as usize) {
        let seeds = first + start..first + count.min(start + BATCH);
        failures.extend(batch(&world, &proxy, climate, &seeds));
    }
    let idle = || proxy.sockets_to(origin.addr);
    // A pipe or two may be kept for the next splice.
    let returned = || proxy.descriptors() <= descriptors + idle() + 16;
    if !within(DEADLINE, returned) {
        failures.push(format!(
            "{} descriptors of {descriptors} are left",
            proxy.descriptors()
        ));
    }
    let response = Client::connect(&proxy).exchange(get("/healthz"));
    assert_eq!(response.status(), 200);
    drop(proxy); // before a failure, which would show all of its log
    let told: Vec<_> = failures.iter().take(TOLD_MAX).map(String::as_str).collect();
    assert!(
        told.is_empty(),
        "{} of {count} scripts from MODEL_SEED={first}:\n{}",
        failures.len(),
        told.join("\n\n")
    );
}

fn start(origin: &Origin, climate: Climate, authority: &Authority) -> Proxy {
    let (attempts, header) = (
        climate.attempts.to_string(),
        climate.header_limit.as_secs_f64().to_string(),
    );
    let (idle, write) = match climate.silences {
        true => (IDLE_LIMIT.as_secs_f64().to_string(), "1"),
        false => ("0".to_owned(), "30"),
    };
    let settings = [
        ("UPSTREAM_MAX_ATTEMPTS", attempts.as_str()),
        ("RESPONSE_HEADER_TIMEOUT_SECONDS", &header),
        ("STREAM_IDLE_TIMEOUT_SECONDS", &idle),
        ("WRITE_TIMEOUT_SECONDS", write),
        ("RETRY_BACKOFF_SECONDS", "0.005"),
        ("UPSTREAM_IDLE_TIMEOUT_SECONDS", "5"),
        ("UPSTREAM_CA_FILE", authority.file()),
    ];
    let plain = settings.len() - usize::from(!climate.tls);
    Proxy::start(origin, &settings[..plain])
}

/// A script that has been played.
struct Played {
    script: Script,
    parts: Vec<Arc<Part>>,
    started: Instant,
    visit: Result<Visit, String>,
}

impl Played {
    fn play(script: Script, world: &World, proxy: &Proxy) -> Self {
        let parts: Vec<_> = script.exchanges.iter().map(|one| world.add(one)).collect();
        let started = Instant::now();
        let visit = catch_unwind(AssertUnwindSafe(|| visit(&script, &parts, proxy.addr)));
        let text = |panic: Box<dyn Any + std::marker::Send>| {
            let text = panic.downcast_ref::<String>().cloned();
            format!("the client: {}", text.unwrap_or_default())
        };
        Self {
            visit: visit.map_err(text),
            script,
            parts,
            started,
        }
    }

    /// Whether nothing of it is under way at the upstream.
    fn is_over(&self) -> bool {
        let mut parts = self.parts.iter();
        parts.all(|part| part.sends().iter().all(|send| send.over))
    }

    /// What is wrong with it, in words.
    fn failure(&self, climate: Climate) -> Option<String> {
        let sends: Vec<Vec<Send>> = self.parts.iter().map(|part| part.sends()).collect();
        let faults = match &self.visit {
            Ok(visit) => judge(&self.script, climate, &sends, visit),
            Err(panic) => vec![panic.clone()],
        };
        if faults.is_empty() {
            return None;
        }
        let (seed, faults) = (self.script.seed, faults.join("\n"));
        let mut told = format!("MODEL_SEED={seed} MODEL_COUNT=1: {faults}\n");
        for (exchange, sends) in self.script.exchanges.iter().zip(&sends) {
            told += &format!("{exchange:?}\n");
            told.extend(sends.iter().map(|send| send.told(self.started)));
        }
        told += &format!("{:?}\n", self.script.leaving);
        if let Ok(visit) = &self.visit {
            told += &visit.told(self.started);
        }
        Some(told)
    }
}

/// Plays these scripts and judges them; what failed, in words.
fn batch(world: &World, proxy: &Proxy, climate: Climate, seeds: &Range<u64>) -> Vec<String> {
    let next = AtomicU64::new(seeds.start);
    let played = Mutex::new(Vec::new());
    let client = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !seeds.contains(&seed) {
                break;
            }
            let one = Played::play(Script::draw(seed, climate), world, proxy);
            played.lock().unwrap().push(one);
        }
    };
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(client);
        }
    });
    let played = played.into_inner().unwrap();
    let ended = within(DEADLINE, || {
        proxy.clients() == 0 && played.iter().all(Played::is_over)
    });
    world.clear();
    let mut failures = world.strays();
    failures.extend(played.iter().filter_map(|played| played.failure(climate)));
    if !ended {
        let clients = proxy.clients();
        let late = played.iter().find(|played| !played.is_over());
        let late = late.map(|played| played.script.seed);
        failures.push(format!(
            "{clients} clients are left; MODEL_SEED={late:?} never ends"
        ));
    }
    failures
}
