//! The soak: everything that clients and an upstream do, good and bad, for as long as one likes. Each
//! response byte is checked, each request is held against what the origin saw of it, and what the proxy
//! holds must not grow.
mod answer;
mod client;
mod script;
mod verdict;

use std::{
    collections::VecDeque,
    env, fs,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::Mutex,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use crate::{
    compare::{self, first_response},
    machine,
    origin::{self, Ledger, Origin},
    peers::{self, Peer, Upstream},
    process::{Holdings, Running},
    report::{self, OURS},
    results::{Soak, SoakKind, SoakSample},
};
use client::{Client, Heard};
use script::{LOTS, Script};
use verdict::Found;

/// Most of them wait for something slow at any time.
const CLIENTS: usize = 128;
/// Of a client.
const NICE: i32 = 10;
/// Short, so that connections to the origin come and go.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// From a request's end to its account, for what may still arrive of it.
const SETTLE: Duration = Duration::from_secs(5);
/// Samples of a run, not more often than a quarter of a second.
const SAMPLES: u32 = 200;
const SAMPLE_INTERVAL_MIN: Duration = Duration::from_millis(250);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// How long what is left over may take to be closed after the load: many idle time-outs.
const CALM_MAX: Duration = Duration::from_secs(10);
/// How long it is left alone after a long run: unused buffers are freed by and by.
const CALM_MIN_MAX: Duration = Duration::from_secs(10);
/// More of them are counted only.
const EXAMPLES_MAX: usize = 20;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// How long; fractions are fine
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Soak another one that is installed, to see that the checks see something
    #[arg(long, value_name = "NAME", default_value = OURS)]
    behind: String,
    /// Directory for soak.json, soak.md and soak.svg
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    out: PathBuf,
}

/// Soaks, prints what came of it and writes it down. Whether nothing was wrong.
///
/// # Errors
/// What keeps it from running at all.
pub fn command(options: &Options) -> Result<bool, String> {
    peers::build_proxy()?;
    let peers = peers::installed();
    let peer = peers.iter().find(|peer| peer.name == options.behind);
    let peer = peer.ok_or_else(|| format!("{} is not installed", options.behind))?;
    let duration = Duration::try_from_secs_f64(options.minutes * 60.0);
    let soak = run(peer, duration.map_err(|error| error.to_string())?)?;
    println!("\n{}", report::soak_text(&soak));
    let json = serde_json::to_string_pretty(&soak).map_err(|error| error.to_string())?;
    let files = [
        ("soak.json", json),
        ("soak.md", report::soak_markdown(&soak)),
        ("soak.svg", report::soak_plot(&soak)),
    ];
    fs::create_dir_all(&options.out)
        .and_then(|()| {
            let mut files = files.into_iter();
            files.try_for_each(|(name, text)| fs::write(options.out.join(name), text))
        })
        .map_err(|error| format!("{}: {error}", options.out.display()))?;
    println!("{}", options.out.join("soak.svg").display());
    Ok(soak.faults.is_empty())
}

fn run(peer: &Peer, duration: Duration) -> Result<Soak, String> {
    let text = |error: io::Error| error.to_string();
    machine::allow_many_files().map_err(text)?;
    let (one, other) = machine::two_cores().map_err(text)?;
    let cores = if one == other {
        vec![one]
    } else {
        vec![one, other]
    };
    let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let origin = origin::start(loopback(0), None, None).map_err(text)?;
    let listen = loopback(machine::free_port().map_err(text)?);
    let mut upstream = Upstream::plain(origin.addr);
    upstream.response_timeout = verdict::RESPONSE_TIMEOUT;
    upstream.idle_timeout = IDLE_TIMEOUT;
    let scratch = env::temp_dir().join(format!("bench-soak-{}-{}", peer.name, origin.addr.port()));
    let running = peer.start(listen, &upstream, &cores, &scratch)?;
    // Wakes what is set up with the first request only.
    first_response(listen).map_err(text)?;

    let mut soak = Soak {
        machine: machine::describe(),
        commit: compare::commit(),
        started: compare::now(),
        contestant: peer.contestant(),
        seconds: duration.as_secs_f64(),
        clients: CLIENTS,
        workers: cores.len() as u64,
        idle: calm(&running, IDLE_TIMEOUT * 2, u64::MAX),
        after: Default::default(),
        samples: Vec::new(),
        kinds: Vec::new(),
        examples: Vec::new(),
        faults: Vec::new(),
    };
    let crew = Crew::new(&origin, listen, duration);
    soak.samples = crew.work(&running, duration);
    let left_alone = (duration / 10).min(CALM_MIN_MAX);
    let kept = verdict::kept_max(soak.idle, soak.workers);
    soak.after = calm(&running, left_alone, kept);
    let account = crew.account.into_inner().expect("clients do not panic");
    (soak.kinds, soak.examples) = (account.kinds, account.examples);
    let Soak {
        kinds,
        samples,
        idle,
        after,
        workers,
        ..
    } = &soak;
    soak.faults = verdict::faults(kinds, samples, *idle, *after, *workers);
    let late = origin.ledger.left();
    if let Some(id) = late.first() {
        let count = late.len();
        soak.faults.push(format!(
            "{count} requests arrived long after their end, such as {id}"
        ));
    }
    drop(running);
    // Left behind, it is a small log in a place for such.
    let _ = fs::remove_dir_all(scratch);
    Ok(soak)
}

/// What it holds after `at_least`, once it has no more descriptors than so many, which may take a while.
fn calm(running: &Running, at_least: Duration, descriptors: u64) -> Holdings {
    thread::sleep(at_least);
    let deadline = Instant::now() + CALM_MAX;
    loop {
        let held = running.holdings();
        if held.descriptors <= descriptors || Instant::now() > deadline {
            return held;
        }
        thread::sleep(SAMPLE_INTERVAL_MIN);
    }
}

/// The clients, and what they have counted.
struct Crew<'a> {
    origin: &'a Origin,
    target: SocketAddr,
    end: Instant,
    next: AtomicU64,
    done: AtomicU64,
    broken: AtomicU64,
    account: Mutex<Account>,
}

struct Account {
    kinds: Vec<SoakKind>,
    examples: Vec<String>,
}

impl<'a> Crew<'a> {
    fn new(origin: &'a Origin, target: SocketAddr, duration: Duration) -> Self {
        let kind = |lot: &script::Lot| SoakKind {
            name: lot.name.to_owned(),
            requests: 0,
            again: 0,
            missed: 0,
            broken: 0,
        };
        Self {
            origin,
            target,
            end: Instant::now() + duration,
            next: AtomicU64::new(0),
            done: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            account: Mutex::new(Account {
                kinds: LOTS.iter().map(kind).collect(),
                examples: Vec::new(),
            }),
        }
    }

    /// Has the clients work until the end, and looks at what the proxy holds meanwhile.
    fn work(&self, running: &Running, duration: Duration) -> Vec<SoakSample> {
        let begun = Instant::now();
        let interval = (duration / SAMPLES).max(SAMPLE_INTERVAL_MIN);
        let mut samples: Vec<SoakSample> = Vec::new();
        let mut shown = begun;
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| self.client());
            }
            while Instant::now() + interval < self.end {
                thread::sleep(interval);
                let sample = SoakSample {
                    second: begun.elapsed().as_secs_f64(),
                    requests: self.done.load(Relaxed),
                    held: running.holdings(),
                };
                if shown.elapsed() >= PROGRESS_INTERVAL {
                    shown = Instant::now();
                    self.show(&sample, duration);
                }
                samples.push(sample);
            }
        });
        samples
    }

    fn show(&self, sample: &SoakSample, duration: Duration) {
        let held = sample.held;
        println!(
            "{} of {}  {:>9} requests {:>6.0}/s  {:>6.1} MiB {:>5} descriptors {:>3} threads, {} of them ring workers  {} broken",
            compare::clock(Duration::from_secs_f64(sample.second)),
            compare::clock(duration),
            sample.requests,
            sample.requests as f64 / sample.second,
            held.rss_kib as f64 / 1024.0,
            held.descriptors,
            held.threads,
            held.io_workers,
            self.broken.load(Relaxed),
        );
        // Nothing depends on whether anyone sees it.
        let _ = io::stdout().flush();
    }

    fn client(&self) {
        // They are many, and the origin is one thread: it is not to answer late for want of its turn.
        let _ = rustix::process::nice(NICE);
        let script = Script::default();
        let mut client = Client::new(self.target);
        let mut to_settle: VecDeque<Heard> = VecDeque::new();
        while Instant::now() < self.end {
            let index = self.next.fetch_add(1, Relaxed);
            let mut heard = client.ask(script.request(index));
            self.done.fetch_add(1, Relaxed);
            // Some are megabytes, and the account does not need them.
            heard.request.bytes = Vec::new();
            to_settle.push_back(heard);
            while let Some(heard) = to_settle.pop_front_if(|heard| heard.ended.elapsed() > SETTLE) {
                self.settle(&heard, &self.origin.ledger);
            }
        }
        for heard in to_settle {
            thread::sleep(SETTLE.saturating_sub(heard.ended.elapsed()));
            self.settle(&heard, &self.origin.ledger);
        }
    }

    fn settle(&self, heard: &Heard, ledger: &Ledger) {
        let found = verdict::judge(heard, &ledger.take(&heard.request.id));
        let mut account = self.account.lock().expect("clients do not panic");
        let kind = &mut account.kinds[heard.request.lot];
        kind.requests += 1;
        let why = match found {
            Found::Good { again } => {
                kind.again += u64::from(again);
                return;
            }
            Found::Missed => {
                kind.missed += 1;
                format!("missed: {:?}", heard.outcome)
            }
            Found::Broken(why) => {
                kind.broken += 1;
                self.broken.fetch_add(1, Relaxed);
                why
            }
        };
        let (name, id) = (kind.name.clone(), &heard.request.id);
        let refusal = heard.told.refusal.as_deref().unwrap_or_default();
        if account.examples.len() < EXAMPLES_MAX {
            account.examples.push(
                format!("{id} ({name}): {why} {refusal}")
                    .trim_end()
                    .to_owned(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(3);

    fn soaked(name: &str) -> Option<Soak> {
        let peers = peers::installed();
        let Some(peer) = peers.iter().find(|peer| peer.name == name) else {
            eprintln!("{name} IS NOT THERE: it is not soaked");
            return None;
        };
        Some(run(peer, SHORT).unwrap_or_else(|error| panic!("{error}")))
    }

    #[test]
    fn the_proxy_keeps_its_word_for_a_few_seconds() {
        let Some(soak) = soaked(OURS) else { return };
        let good: u64 = soak.kinds.iter().map(|kind| kind.requests).sum();
        assert!(good > 100, "{good} requests only");
        let broken: u64 = soak.kinds.iter().map(|kind| kind.broken).sum();
        assert_eq!(broken, 0, "{:?}", soak.examples);
        // How many are missed on a machine with other work says nothing in so short a time.
        let is_other = |fault: &&String| !fault.contains("not answered as due");
        let other: Vec<&String> = soak.faults.iter().filter(is_other).collect();
        assert!(other.is_empty(), "{other:?}");
        assert!(report::soak_markdown(&soak).contains("hangs once"));
        assert!(report::soak_plot(&soak).contains("descriptors"));
    }

    #[test]
    fn a_proxy_that_asks_again_after_an_answer_is_found_out() {
        let Some(soak) = soaked("nginx") else { return };
        let is_it = |example: &String| example.contains("after a byte of an answer");
        assert!(soak.examples.iter().any(is_it), "{:?}", soak.examples);
        assert!(!soak.faults.is_empty());
    }
}
