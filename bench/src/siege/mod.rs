//! The siege: greedy peers, one kind after the other, beside clients that ask for little and should not
//! feel it. What those feel, and what the besieged one holds, with the same for nginx.
mod attack;

use std::{
    env, fs,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, getrlimit};

use crate::{
    compare::{self, first_response},
    load::{self, Edge, Window, Work},
    machine,
    origin::{self, Origin},
    peers::{self, Peer, Upstream},
    process::{self, Holdings, Running},
    report::{self, OURS},
    results::{Assault, Bystanders, Siege},
};
use attack::{ATTACKS, Attack, Field};

/// Bystanders are few and ask for little: what they wait for is the others.
const BYSTANDERS: usize = 8;
const RATE: f64 = 200.0;
const BYSTANDER_BYTES: usize = 256;
const WARM_UP: Duration = Duration::from_millis(300);
const MEASURED: Duration = Duration::from_secs(10);
const MEASURED_QUICK: Duration = Duration::from_millis(600);
/// For what is still to be closed and freed after an attack; in quick, only until it is closed.
const SETTLE: Duration = Duration::from_secs(4);
/// Short, so that it is over within `SETTLE`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
/// Descriptors that a worker may keep: both ends of 16 pipes, and a connection for each bystander.
const KEPT: u64 = 32 + BYSTANDERS as u64;
/// Descriptors of the bench besides those of an attack.
const OTHER_FILES: u64 = 500;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Show in under a minute that everything works; the figures mean little
    #[arg(long)]
    quick: bool,
    /// Besiege these only
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAME",
        default_value = "proxy,nginx"
    )]
    contestants: Vec<String>,
    /// Make only attacks whose names have one of these in them
    #[arg(long, value_delimiter = ',', value_name = "WORDS")]
    only: Vec<String>,
    /// Directory for siege.json and siege.md
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    out: PathBuf,
}

/// Besieges, prints what came of it and writes it down. Whether nobody behind the proxy got a wrong byte
/// or none, and it holds no descriptors afterwards; latencies do not count.
///
/// # Errors
/// What keeps it from running at all.
pub fn command(options: &Options) -> Result<bool, String> {
    peers::build_proxy()?;
    let mut peers = peers::installed();
    peers.retain(|peer| options.contestants.iter().any(|name| name == peer.name));
    let is_chosen = |attack: &&Attack| {
        let is_in = |words: &String| attack.name.contains(words);
        options.only.is_empty() || options.only.iter().any(is_in)
    };
    let attacks: Vec<&Attack> = ATTACKS.iter().filter(is_chosen).collect();
    let siege = run(&peers, options.quick, &attacks)?;
    println!("\n{}", report::siege_text(&siege));
    let json = serde_json::to_string_pretty(&siege).map_err(|error| error.to_string())?;
    let markdown = report::siege_markdown(&siege);
    fs::create_dir_all(&options.out)
        .and_then(|()| fs::write(options.out.join("siege.json"), json))
        .and_then(|()| fs::write(options.out.join("siege.md"), markdown))
        .map_err(|error| format!("{}: {error}", options.out.display()))?;
    println!("{}", options.out.join("siege.md").display());
    let faults = faults(&siege);
    faults.iter().for_each(|fault| println!("{fault}"));
    Ok(faults.is_empty())
}

fn run(peers: &[Peer], quick: bool, attacks: &[&Attack]) -> Result<Siege, String> {
    let text = |error: io::Error| error.to_string();
    machine::allow_many_files().map_err(text)?;
    // Before this thread is kept to one of its cores.
    let machine = machine::describe();
    let (core, load_core) = machine::two_cores().map_err(text)?;
    let before = rustix::thread::sched_getaffinity(None).map_err(|error| error.to_string())?;
    process::pin(&[load_core]).map_err(text)?;
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let origin = origin::start(any_port, Some(load_core), None).map_err(text)?;
    let scratch = env::temp_dir().join(format!("bench-siege-{}", origin.addr.port()));
    let place = Place {
        core,
        origin: &origin,
        scratch: scratch.clone(),
        quick,
        window: Window {
            warm_up: WARM_UP,
            measured: if quick { MEASURED_QUICK } else { MEASURED },
        },
    };
    let mut siege = Siege {
        machine,
        commit: compare::commit(),
        started: compare::now(),
        quick,
        seconds: place.window.measured.as_secs_f64(),
        contestants: peers.iter().map(Peer::contestant).collect(),
        assaults: Vec::new(),
    };
    for attack in attacks {
        let count = affordable(if quick {
            attack.counts.1
        } else {
            attack.counts.0
        });
        let takes_part = |peer: &&Peer| attack.only.is_none_or(|name| name == peer.name);
        for peer in peers.iter().filter(takes_part) {
            print!("{:<48} {:<8} ", attack.name, peer.name);
            // Nothing depends on whether anyone sees it.
            let _ = io::stdout().flush();
            let assault = place.assault(peer, attack, count)?;
            println!("{}", report::siege_line(&assault));
            siege.assaults.push(assault);
        }
    }
    rustix::thread::sched_setaffinity(None, &before).map_err(|error| error.to_string())?;
    // Left behind, it is a few small files in a place for such.
    let _ = fs::remove_dir_all(scratch);
    Ok(siege)
}

/// As many connections as we can hold both ends of, where that is fewer.
fn affordable(count: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let most = (files.saturating_sub(OTHER_FILES) / 2) as usize;
    // Those that come one after the other are not all open at once.
    if count > most && count <= 5000 {
        println!("ONLY {files} OPEN FILES ARE ALLOWED: {most} connections instead of {count}");
        return most;
    }
    count
}

struct Place<'a> {
    core: usize,
    origin: &'a Origin,
    scratch: PathBuf,
    quick: bool,
    window: Window,
}

impl Place<'_> {
    fn assault(&self, peer: &Peer, attack: &Attack, count: usize) -> Result<Assault, String> {
        let text = |error: io::Error| error.to_string();
        let port = machine::free_port().map_err(text)?;
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        let mut upstream = Upstream::plain(self.origin.addr);
        upstream.idle_timeout = IDLE_TIMEOUT;
        let dir = self.scratch.join(peer.name);
        let running = peer.start(listen, &upstream, &[self.core], &dir)?;
        first_response(listen).map_err(text)?;
        let before = running.holdings();

        let (begun, over, stopped) = (
            AtomicBool::new(false),
            AtomicBool::new(false),
            AtomicBool::new(false),
        );
        let field = Field {
            target: listen,
            count,
            window: self.window.measured,
            over: &over,
        };
        let (measured, did, peak) = thread::scope(|scope| {
            let attacker = scope.spawn(|| {
                until(&begun);
                attack.run(&field)
            });
            let watch = scope.spawn(|| peak(&running, &stopped));
            let measured = load::run(listen, &bystanders(), self.window, &mut |edge| match edge {
                Edge::Begin => begun.store(true, Relaxed),
                Edge::End => over.store(true, Relaxed),
            });
            // Also where it failed.
            begun.store(true, Relaxed);
            over.store(true, Relaxed);
            let did = attacker.join().expect("attackers do not panic");
            stopped.store(true, Relaxed);
            (measured, did, watch.join().expect("nor does who watches"))
        });
        let measured = measured.map_err(|error| format!("{error}; {}", running.log_tail()))?;
        let deadline = Instant::now() + SETTLE;
        let has_let_go = || running.holdings().descriptors <= before.descriptors + KEPT;
        while Instant::now() < deadline && !(self.quick && has_let_go()) {
            thread::sleep(LOOK);
        }
        let quantile_ms = |quantile| measured.latency.value_at_quantile(quantile) as f64 / 1e6;
        Ok(Assault {
            attack: attack.name.to_owned(),
            contestant: peer.name.to_owned(),
            did,
            bystanders: Bystanders {
                answered: measured.latency.len(),
                p50_ms: quantile_ms(0.5),
                p99_ms: quantile_ms(0.99),
                max_ms: quantile_ms(1.0),
                errors: measured.errors,
                wrong: measured.wrong,
                examples: measured.error_samples,
            },
            before,
            peak,
            after: running.holdings(),
        })
    }
}

fn bystanders() -> Work {
    Work::Requests {
        path: format!("/bytes/{BYSTANDER_BYTES}"),
        body_bytes: BYSTANDER_BYTES,
        response_bytes: BYSTANDER_BYTES as u64,
        connections: BYSTANDERS,
        keep_alive: true,
        rate: Some(RATE),
    }
}

fn until(flag: &AtomicBool) {
    while !flag.load(Relaxed) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// The most that it holds at any look until it is stopped.
fn peak(running: &Running, stopped: &AtomicBool) -> Holdings {
    let mut peak = Holdings::default();
    while !stopped.load(Relaxed) {
        let held = running.holdings();
        peak = Holdings {
            rss_kib: peak.rss_kib.max(held.rss_kib),
            descriptors: peak.descriptors.max(held.descriptors),
            threads: peak.threads.max(held.threads),
            io_workers: peak.io_workers.max(held.io_workers),
        };
        thread::sleep(LOOK);
    }
    peak
}

/// What the proxy is found guilty of.
fn faults(siege: &Siege) -> Vec<String> {
    let ours = siege.assaults.iter().filter(|one| one.contestant == OURS);
    let fault = |one: &Assault| {
        let Bystanders { errors, wrong, .. } = one.bystanders;
        let (before, after) = (one.before.descriptors, one.after.descriptors);
        let mut words = Vec::new();
        if errors + wrong > 0 {
            let examples = one.bystanders.examples.join("; ");
            words.push(format!(
                "{errors} requests failed, {wrong} were answered wrong: {examples}"
            ));
        }
        if after > before + KEPT {
            words.push(format!("{after} descriptors afterwards, {before} before"));
        }
        (!words.is_empty()).then(|| format!("{}: {}", one.attack, words.join("; ")))
    };
    ours.filter_map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attack_is_made_and_bystanders_behind_the_proxy_are_served() {
        let mut peers = peers::installed();
        peers.retain(|peer| peer.name == OURS);
        if peers.is_empty() {
            return eprintln!("THE PROXY IS NOT BUILT FOR RELEASE: it is not besieged");
        }
        let attacks: Vec<&Attack> = ATTACKS.iter().collect();
        let siege = run(&peers, true, &attacks).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(siege.assaults.len(), ATTACKS.len());
        assert!(faults(&siege).is_empty(), "{:?}", faults(&siege));
        let table = report::siege_markdown(&siege);
        for one in &siege.assaults {
            assert!(
                !one.did.contains("could not"),
                "{}: {}",
                one.attack,
                one.did
            );
            assert!(one.bystanders.answered > 0, "{one:?}");
            assert!(table.contains(&one.attack));
        }
        let held = |name: &str| {
            let mut all = siege.assaults.iter();
            all.find(|one| one.attack == name)
                .expect("it was made")
                .peak
                .descriptors
        };
        assert!(
            held("idle connections") >= held("none") + 100,
            "attackers were not there"
        );
    }

    #[test]
    fn a_bystander_that_fails_and_descriptors_that_stay_are_faults() {
        let assault = || Assault {
            attack: "none".to_owned(),
            contestant: OURS.to_owned(),
            did: String::new(),
            bystanders: Bystanders {
                answered: 1,
                p50_ms: 0.0,
                p99_ms: 0.0,
                max_ms: 0.0,
                errors: 0,
                wrong: 0,
                examples: Vec::new(),
            },
            before: Holdings::default(),
            peak: Holdings::default(),
            after: Holdings::default(),
        };
        let faults_of = |spoil: fn(&mut Assault)| {
            let mut one = assault();
            spoil(&mut one);
            let siege = Siege {
                machine: machine::describe(),
                commit: String::new(),
                started: String::new(),
                quick: true,
                seconds: 1.0,
                contestants: Vec::new(),
                assaults: vec![one],
            };
            faults(&siege).len()
        };
        assert_eq!(faults_of(|_| ()), 0);
        assert_eq!(faults_of(|one| one.bystanders.errors = 1), 1);
        assert_eq!(faults_of(|one| one.bystanders.wrong = 1), 1);
        assert_eq!(faults_of(|one| one.after.descriptors = KEPT + 1), 1);
        assert_eq!(
            faults_of(|one| (one.contestant, one.bystanders.errors) = ("nginx".to_owned(), 1)),
            0
        );
    }
}
