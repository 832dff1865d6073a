//! The comparison: every kind of work behind every contestant, in rounds, and what came of it.
mod footprint;
mod stage;
mod works;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    load::Window,
    machine,
    peers::{self, Peer},
    report::{self, OURS},
    rescue::{self, Place},
    results::{Contestant, Measure, Results, Sample, Work},
};
pub(crate) use stage::first_response;
use stage::{Found, Stage};
use works::Plan;

/// Starting a contestant and connecting to it, at a guess, until the first ones have shown it.
const START_GUESS: Duration = Duration::from_millis(400);

/// An older build of the proxy, and what a change may cost: as much as can be told from noise.
const BEFORE: &str = "proxy-before";
const BEFORE_RATIO: f64 = 1.02;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Show in a minute or two that everything works; the figures mean little
    #[arg(long)]
    quick: bool,
    /// How often everything is measured [default: 5, quick: 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// Measure these kinds of work only, such as post-1k-64,sse-5000
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    only: Vec<String>,
    /// Compare these only, such as proxy,nginx,relay
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    contestants: Vec<String>,
    /// An older build of the proxy, which takes part as proxy-before: what a change costs
    #[arg(long, value_name = "PROGRAM")]
    before: Option<PathBuf>,
    /// Directory for results.json, report.md, report.html and the plots
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    out: PathBuf,
}

/// Runs the comparison. Whether the proxy made no mistake; bars do not count.
///
/// # Errors
/// What keeps it from running at all.
pub fn run(options: &Options) -> Result<bool, String> {
    let plans = chosen_plans(options)?;
    peers::build_proxy()?;
    let peers = chosen_peers(options)?;
    let mut results = begin(options, &plans, &peers);
    let stage = Stage::set(window(options.quick)).map_err(|error| error.to_string())?;
    println!("{}\n", lineup(&results.contestants));

    let mut faultless = true;
    let turns = turns(&plans, &results);
    let mut progress = Progress::new(turns.len(), stage.window);
    for turn in &turns {
        let plan = &plans[turn.work];
        let peer = peers.iter().find(|peer| peer.name == turn.contestant);
        let found = stage.measure(peer, plan, turn.round, &[stage.core]);
        progress.show(plan, &turn.contestant, &found);
        let sample = found.ok().map(|found| found.sample);
        let right = sample
            .as_ref()
            .is_some_and(|sample| sample.wrong + sample.errors == 0);
        faultless &= right || turn.contestant != OURS;
        results.works[turn.work].samples.extend(sample);
        // What a run that is broken off has found stays.
        if turns
            .get(progress.done)
            .is_none_or(|next| next.round != turn.round)
        {
            save(&results, &options.out)?;
        }
    }
    let proxy = peers.iter().find(|peer| peer.name == OURS);
    if let Some(proxy) = proxy.filter(|_| options.only.is_empty()) {
        println!("start, memory, size, and a second worker");
        results.footprint = Some(footprint::measure(&stage, proxy, results.rounds)?);
        save(&results, &options.out)?;
    }
    if options.only.is_empty() {
        let place = Place {
            core: stage.core,
            load_core: stage.load_core,
            scratch: stage.scratch(),
        };
        results.rescue =
            rescue::run(&peers, &place, options.quick).map_err(|error| error.to_string())?;
        if let Some(fault) = rescue::fault(&results.rescue).filter(|_| proxy.is_some()) {
            println!("    {fault}");
            faultless = false;
        }
        save(&results, &options.out)?;
    }
    println!("\n{}", report::terminal(&results));
    println!("{}", options.out.join("report.html").display());
    if !faultless {
        println!("the proxy made mistakes, which are shown above");
    }
    Ok(faultless)
}

/// One measurement that is to come.
struct Turn {
    work: usize,
    contestant: String,
    round: usize,
}

/// Rounds are outermost, so that what changes on the machine over time meets everyone. Who comes
/// first changes from round to round.
fn turns(plans: &[Plan], results: &Results) -> Vec<Turn> {
    let mut turns = Vec::new();
    for round in 0..results.rounds {
        for (work, plan) in plans.iter().enumerate() {
            let takes_part = |one: &&Contestant| match one.name.as_str() {
                BEFORE => plan.contestants.contains(&"proxy"),
                name => plan.contestants.contains(&name),
            };
            let mut names: Vec<&str> = results
                .contestants
                .iter()
                .filter(takes_part)
                .map(|one| one.name.as_str())
                .collect();
            if !names.is_empty() {
                let first = round % names.len();
                names.rotate_left(first);
            }
            let turn = |name: &str| Turn {
                work,
                contestant: name.to_owned(),
                round,
            };
            turns.extend(names.into_iter().map(turn));
        }
    }
    turns
}

fn chosen_plans(options: &Options) -> Result<Vec<Plan>, String> {
    let mut plans = works::all(options.quick);
    let known = |id: &String| plans.iter().any(|plan| plan.id == id);
    if let Some(unknown) = options.only.iter().find(|id| !known(id)) {
        let ids: Vec<&str> = plans.iter().map(|plan| plan.id).collect();
        return Err(format!(
            "there is no work {unknown}, only {}",
            ids.join(", ")
        ));
    }
    if options.before.is_some() {
        for plan in &mut plans {
            plan.bars
                .push(works::bar(Measure::Cpu, &[BEFORE], BEFORE_RATIO));
        }
    }
    plans.retain(|plan| options.only.is_empty() || options.only.iter().any(|id| plan.id == id));
    Ok(plans)
}

fn chosen_peers(options: &Options) -> Result<Vec<Peer>, String> {
    let mut peers = peers::installed();
    if let Some(program) = &options.before {
        peers.push(peers::build_of(BEFORE, program)?);
    }
    let known = |name: &String| name == "direct" || peers.iter().any(|peer| peer.name == name);
    if let Some(unknown) = options.contestants.iter().find(|name| !known(name)) {
        return Err(format!("{unknown} is not known or not installed"));
    }
    peers.retain(|peer| takes_part(options, peer.name));
    Ok(peers)
}

fn takes_part(options: &Options, name: &str) -> bool {
    options.contestants.is_empty() || options.contestants.iter().any(|chosen| chosen == name)
}

fn window(quick: bool) -> Window {
    let (warm_up_ms, measured_ms) = if quick { (200, 400) } else { (700, 2500) };
    Window {
        warm_up: Duration::from_millis(warm_up_ms),
        measured: Duration::from_millis(measured_ms),
    }
}

fn begin(options: &Options, plans: &[Plan], peers: &[Peer]) -> Results {
    let mut contestants: Vec<Contestant> = peers.iter().map(Peer::contestant).collect();
    if takes_part(options, "direct") {
        let note = "nothing between load and origin".to_owned();
        contestants.push(Contestant {
            name: "direct".into(),
            version: String::new(),
            note,
        });
    }
    let works = plans.iter().map(|plan| Work {
        id: plan.id.to_owned(),
        title: plan.title.clone(),
        unit: stage::unit(&plan.load).0.to_owned(),
        samples: Vec::new(),
        bars: plan.bars.clone(),
    });
    Results {
        machine: machine::describe(),
        commit: commit(),
        started: now(),
        quick: options.quick,
        rounds: options.rounds.unwrap_or(if options.quick { 1 } else { 5 }),
        contestants,
        works: works.collect(),
        rescue: Vec::new(),
        footprint: None,
    }
}

/// Commit of the work tree, with `+` behind it where that has changes.
pub(crate) fn commit() -> String {
    let changed = !said_by("git", &["status", "--porcelain", ".."]).is_empty();
    said_by("git", &["rev-parse", "--short=10", "HEAD"]) + if changed { "+" } else { "" }
}

/// UTC, `YYYY-MM-DD HH:MM`.
pub(crate) fn now() -> String {
    said_by("date", &["-u", "+%Y-%m-%d %H:%M"])
}

/// What a program prints when it is run in this package's directory; nothing where it fails.
fn said_by(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).trim().to_owned()
}

fn lineup(contestants: &[Contestant]) -> String {
    let line = |one: &Contestant| format!("{:<14} {:<18} {}", one.name, one.version, one.note);
    contestants.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn save(results: &Results, out: &Path) -> Result<(), String> {
    let json = serde_json::to_string_pretty(results).map_err(|error| error.to_string())?;
    let texts = [
        ("results.json", json),
        ("report.md", report::markdown(results)),
        ("report.html", report::html(results)),
    ];
    let mut files = texts.into_iter().chain(report::plots(results));
    fs::create_dir_all(out)
        .and_then(|()| files.try_for_each(|(name, text)| fs::write(out.join(name), text)))
        .map_err(|error| format!("{}: {error}", out.display()))
}

/// One line on the terminal for each measurement.
struct Progress {
    begun: Instant,
    done: usize,
    all: usize,
    guess: Duration,
}

impl Progress {
    fn new(all: usize, window: Window) -> Self {
        let guess = window.warm_up + window.measured + START_GUESS;
        Self {
            begun: Instant::now(),
            done: 0,
            all,
            guess,
        }
    }

    fn show(&mut self, plan: &Plan, contestant: &str, found: &Result<Found, String>) {
        self.done += 1;
        let elapsed = self.begun.elapsed();
        // The guess weighs as much as ten measurements.
        let each = (elapsed + self.guess * 10) / (self.done as u32 + 10);
        let total = elapsed + each * (self.all - self.done) as u32;
        let place = format!(
            "{:>3}/{} {} of {}",
            self.done,
            self.all,
            clock(elapsed),
            clock(total)
        );
        print!("{place}  {:<18} {contestant:<14} ", plan.id);
        match found {
            Ok(found) => {
                println!("{}", figures(plan, &found.sample));
                for fault in &found.faults {
                    println!("    {fault}");
                }
            }
            Err(error) => println!("NOT MEASURED: {error}"),
        }
    }
}

fn figures(plan: &Plan, sample: &Sample) -> String {
    let (unit, _, cpu_scale) = stage::unit(&plan.load);
    let cpu_unit = if cpu_scale > 1.0 { "us" } else { "s" };
    let mut text = match sample.cpu {
        Some(cpu) => format!("{cpu:>8.2} {cpu_unit}/{unit:<7}"),
        None => format!("{:>19}", ""),
    };
    text += &format!(
        " {:>10.*} /s",
        if cpu_scale > 1.0 { 0 } else { 2 },
        sample.rate
    );
    if let Some(latency) = sample.latency {
        text += &format!(
            "  p50 {:.0} p99 {:.0} p99.9 {:.0} us",
            latency.p50, latency.p99, latency.p999
        );
    }
    if let Some(kib) = sample.stream_kib {
        text += &format!("  {kib:.1} KiB/stream");
    }
    if sample.wrong + sample.errors > 0 {
        text += &format!("  {} WRONG, {} ERRORS", sample.wrong, sample.errors);
    }
    text
}

/// Minutes and seconds.
pub(crate) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_comes_once_a_round_and_first_in_one_of_them() {
        let options = Options {
            quick: true,
            rounds: Some(3),
            only: vec!["post-1k-64".into(), "sse-5000".into()],
            before: None,
            contestants: vec!["proxy".into(), "relay".into(), "direct".into()],
            out: PathBuf::new(),
        };
        let plans = chosen_plans(&options).expect("they exist");
        let mut results = begin(&options, &plans, &[]);
        let contestant = |name: &String| Contestant {
            name: name.clone(),
            version: String::new(),
            note: String::new(),
        };
        results.contestants = options.contestants.iter().map(contestant).collect();
        let turns = turns(&plans, &results);
        let mut seen = turns.chunks(3).map(|turns| {
            assert!(
                turns
                    .iter()
                    .all(|turn| (turn.work, turn.round) == (turns[0].work, turns[0].round))
            );
            turns
                .iter()
                .map(|turn| turn.contestant.as_str())
                .collect::<Vec<_>>()
                .join(" ")
        });
        for order in [
            "proxy relay direct",
            "relay direct proxy",
            "direct proxy relay",
        ] {
            assert_eq!(seen.next().as_deref(), Some(order));
            assert_eq!(
                seen.next().as_deref(),
                Some(order),
                "of the second kind of work"
            );
        }
        assert_eq!(seen.next(), None);
    }
}
