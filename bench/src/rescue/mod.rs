//! The rescue scenario: under load, a share of the attempts hangs, is reset or breaks off. What each
//! contestant's clients get is held against what the origin has seen.
mod client;
mod received;
mod script;

use std::{
    env, fs,
    io::{self, Write},
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{
    machine,
    origin::{self, Arrival, Ledger, Origin},
    peers::{self, Peer, Upstream},
    process,
    report::{self, OURS},
    results::Rescue,
};
use client::{Heard, Outcome};
use script::Script;

const REQUESTS: u64 = 4000;
const REQUESTS_QUICK: u64 = 400;
const CLIENTS: usize = 64;
/// Silence after which contestants ask again. The origin answers in a hundredth of it.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(500);
/// Each contestant's, beyond them they are counted.
const FAULTS_SHOWN: usize = 5;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Send a tenth of the requests
    #[arg(long)]
    quick: bool,
    /// Only behind these, such as proxy,nginx
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    contestants: Vec<String>,
}

/// Where it runs.
pub(crate) struct Place<'a> {
    /// Of the contestants.
    pub(crate) core: usize,
    /// Of the origin. Clients run where the calling thread may.
    pub(crate) load_core: usize,
    /// For configurations and logs.
    pub(crate) scratch: &'a Path,
}

/// Builds the proxy, runs the scenario and prints what came of it. Whether the proxy did all it should.
///
/// # Errors
/// What keeps it from running at all.
pub(crate) fn command(options: &Options) -> Result<bool, String> {
    peers::build_proxy()?;
    let mut peers = peers::installed();
    if !options.contestants.is_empty() {
        peers.retain(|peer| options.contestants.iter().any(|name| name == peer.name));
    }
    let text = |error: io::Error| error.to_string();
    let (core, load_core) = machine::two_cores().map_err(text)?;
    process::pin(&[load_core]).map_err(text)?;
    let scratch = env::temp_dir().join(format!("bench-rescue-{}", std::process::id()));
    let place = Place {
        core,
        load_core,
        scratch: &scratch,
    };
    let rescues = run(&peers, &place, options.quick).map_err(text);
    // Left behind, it is a few small files in a place for such.
    let _ = fs::remove_dir_all(&scratch);
    let rescues = rescues?;
    println!("\n{}", report::rescue(&rescues));
    let fault = fault(&rescues);
    if let Some(fault) = &fault {
        println!("{fault}");
    }
    Ok(fault.is_none())
}

/// Runs the scenario behind those of `peers` that can ask again, one after the other.
///
/// # Errors
/// The origin does not start.
pub(crate) fn run(peers: &[Peer], place: &Place<'_>, quick: bool) -> io::Result<Vec<Rescue>> {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let origin = origin::start(any_port, Some(place.load_core), None)?;
    let requests = if quick { REQUESTS_QUICK } else { REQUESTS };
    let mut rescues = Vec::new();
    for peer in peers.iter().filter(|peer| asks_again(peer)) {
        print!("rescue  {:<14} ", peer.name);
        io::stdout().flush()?;
        let begun = Instant::now();
        match behind(peer, &origin, place, requests) {
            Ok((rescue, faults)) => {
                println!(
                    "{requests} requests in {:.1} s",
                    begun.elapsed().as_secs_f64()
                );
                for fault in faults.iter().take(FAULTS_SHOWN) {
                    println!("    {fault}");
                }
                rescues.push(rescue);
            }
            Err(error) => println!("NOT RUN: {error}"),
        }
    }
    Ok(rescues)
}

/// What the proxy failed to do; `None` where it did all that it should.
pub(crate) fn fault(rescues: &[Rescue]) -> Option<String> {
    let Some(ours) = rescues.iter().find(|rescue| rescue.contestant == OURS) else {
        return Some("the proxy did not run".to_owned());
    };
    let (right, answerable) = (
        ours.answered + ours.rescued,
        script::answerable(ours.requests),
    );
    let must_be_none = [
        (ours.wrong, "responses are wrong"),
        (ours.hung, "requests hung"),
        (
            ours.replayed_after_answer,
            "requests were sent again after the answer had begun",
        ),
        (
            answerable.saturating_sub(right),
            "requests were not rescued that could be",
        ),
    ];
    let faults = must_be_none.iter().filter(|(count, _)| *count > 0);
    let faults: Vec<String> = faults
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    (!faults.is_empty()).then(|| format!("behind the proxy, {}", faults.join(", ")))
}

/// What nginx-tuned adds makes no difference here; HAProxy's larger buffers do. Why not Caddy stands in
/// its configuration.
fn asks_again(peer: &Peer) -> bool {
    !matches!(peer.name, "relay" | "nginx-tuned" | "caddy")
}

/// Besides the counts, what is wrong in words.
fn behind(
    peer: &Peer,
    origin: &Origin,
    place: &Place<'_>,
    requests: u64,
) -> Result<(Rescue, Vec<String>), String> {
    let port = machine::free_port().map_err(|error| error.to_string())?;
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    let mut upstream = Upstream::plain(origin.addr);
    upstream.response_timeout = RESPONSE_TIMEOUT;
    let dir = place.scratch.join(format!("rescue-{}", peer.name));
    let _running = peer.start(listen, &upstream, &[place.core], &dir)?;
    let heard = client::ask(listen, &Script::new(peer.name), requests, CLIENTS);
    Ok(tally(peer.name, heard, &origin.ledger))
}

fn tally(contestant: &str, all: Vec<Heard>, ledger: &Ledger) -> (Rescue, Vec<String>) {
    let mut rescue = Rescue {
        contestant: contestant.to_owned(),
        requests: all.len() as u64,
        rescued: 0,
        answered: 0,
        failed_cleanly: 0,
        wrong: 0,
        hung: 0,
        replayed_after_answer: 0,
        sends: 0,
        rescued_p50_ms: 0.0,
        rescued_p99_ms: 0.0,
    };
    let mut faults = Vec::new();
    let longest_us = client::PATIENCE.as_micros() as u64;
    let mut times_us =
        Histogram::<u64>::new_with_max(longest_us, 3).expect("three digits are allowed");
    for Heard {
        request,
        outcome,
        took,
    } in all
    {
        let arrivals = ledger.arrivals(&request.id);
        rescue.sends += arrivals.len() as u64;
        if arrivals.iter().any(|arrival| arrival.after_answer) {
            rescue.replayed_after_answer += 1;
        }
        match checked(outcome, &arrivals, request.body_hash) {
            Outcome::Right(0) => rescue.answered += 1,
            Outcome::Right(_) => {
                rescue.rescued += 1;
                times_us.saturating_record(took.as_micros() as u64);
            }
            Outcome::Failed => rescue.failed_cleanly += 1,
            Outcome::Hung => rescue.hung += 1,
            Outcome::Wrong(why) => {
                rescue.wrong += 1;
                faults.push(format!("{} ({}): {why}", request.id, request.steps));
            }
        }
    }
    let quantile_ms = |quantile| times_us.value_at_quantile(quantile) as f64 / 1e3;
    (rescue.rescued_p50_ms, rescue.rescued_p99_ms) = (quantile_ms(0.5), quantile_ms(0.99));
    (rescue, faults)
}

/// What the client got, unless the origin knows better.
fn checked(outcome: Outcome, arrivals: &[Arrival], body_hash: u64) -> Outcome {
    let differs = |arrival: &Arrival| arrival.body.is_some_and(|hash| hash != body_hash);
    match outcome {
        Outcome::Wrong(_) => outcome,
        _ if arrivals.iter().any(differs) => Outcome::Wrong("another body arrived".to_owned()),
        // The origin answers an arrival once its body is complete.
        Outcome::Right(number) if arrivals.get(number).is_none_or(|one| one.body.is_none()) => {
            Outcome::Wrong("an answer that the origin has not given".to_owned())
        }
        _ => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(body: Option<u64>) -> Arrival {
        Arrival {
            at: Instant::now(),
            body,
            answered: None,
            after_answer: false,
        }
    }

    #[test]
    fn an_answer_counts_when_the_origin_gave_it_and_only_the_body_sent_arrived() {
        let (lost, good, bad) = (None, Some(1), Some(2));
        let checked = |outcome, bodies: &[Option<u64>]| {
            let arrivals: Vec<Arrival> = bodies.iter().map(|&body| arrival(body)).collect();
            checked(outcome, &arrivals, 1)
        };
        assert_eq!(checked(Outcome::Right(0), &[good]), Outcome::Right(0));
        assert_eq!(checked(Outcome::Right(1), &[lost, good]), Outcome::Right(1));
        for (outcome, bodies) in [
            (Outcome::Right(0), [lost, good]),
            (Outcome::Right(2), [lost, good]),
            (Outcome::Right(1), [bad, good]),
            (Outcome::Failed, [good, bad]),
        ] {
            assert!(matches!(checked(outcome, &bodies), Outcome::Wrong(_)));
        }
    }

    #[test]
    fn the_proxy_is_at_fault_for_each_thing_it_must_not_do_and_for_what_it_does_not_rescue() {
        let requests = 400;
        let good = || {
            let (mut good, _) = tally(OURS, Vec::new(), &Ledger::default());
            let right = script::answerable(requests);
            (good.requests, good.rescued) = (requests, right);
            good.failed_cleanly = requests - right;
            good
        };
        assert_eq!(fault(&[good()]), None);
        let spoils: [fn(&mut Rescue); 4] = [
            |one| one.wrong = 1,
            |one| one.hung = 1,
            |one| one.replayed_after_answer = 1,
            |one| one.rescued -= 1,
        ];
        for spoil in spoils {
            let mut bad = good();
            spoil(&mut bad);
            let fault = fault(&[bad]).expect("something is wrong");
            assert!(fault.contains(" 1 re"), "{fault}");
        }
        assert!(fault(&[]).is_some());
    }

    #[test]
    fn the_proxy_rescues_what_can_be_rescued() {
        let peers = peers::installed();
        let Some(proxy) = peers.iter().find(|peer| peer.name == OURS) else {
            return eprintln!("THE PROXY IS NOT BUILT FOR RELEASE: its rescues are not tried");
        };
        let (core, load_core) = machine::two_cores().expect("there is a core");
        let scratch = env::temp_dir().join(format!("bench-rescue-test-{}", std::process::id()));
        let place = Place {
            core,
            load_core,
            scratch: &scratch,
        };
        let rescues = run(std::slice::from_ref(proxy), &place, true).expect("loopback");
        assert_eq!(fault(&rescues), None, "{rescues:?}");
        fs::remove_dir_all(scratch).expect("it was made");
    }
}
