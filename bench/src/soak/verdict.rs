//! What is held against the proxy: each request by what its client got and the origin saw, and the whole
//! run by what the process held.
use std::time::Duration;

use super::client::{Heard, Outcome};
use super::script::{Due, LOTS, Place};
use crate::{
    origin::Arrival,
    process::Holdings,
    report::Figure,
    results::{SoakKind, SoakSample},
};

/// Times that the proxy may send a request: two attempts, and once more at once where a connection that
/// was used before turns out to be closed.
const SENDS_MAX: usize = 3;
/// From a client's leaving to its being noticed, on a machine that is busy with the load. The next
/// attempt of a request that hangs comes after more than that.
const NOTICE: Duration = Duration::from_millis(1500);
/// As the proxy is told. The origin answers in a thousandth of it.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// One request in so many may not be answered as it is due: on a machine with other work the origin
/// itself is sometimes later than the limit.
const MISSED_ONE_IN: u64 = 1000;
/// Share of a run that is not judged: pools fill, and the heap takes its size.
const WARM_UP: f64 = 0.1;
/// Fewer samples in a third say nothing.
const THIRD_SAMPLES_MIN: usize = 10;
/// The last third's median over the first third's. A heap keeps the size that the largest bodies which were
/// in it at one time gave it, so it climbs by steps that come ever more rarely. In ten minutes, 50 bytes kept
/// from each request are more than this.
const GROWTH_MAX: f64 = 1.25;
/// Besides: a small number may grow by a few.
const GROWTH_RSS_KIB: f64 = 4096.0;
const GROWTH_COUNT: f64 = 8.0;
/// Descriptors that each worker keeps beyond its idle level: both ends of 16 pipes.
const KEPT_BY_WORKER: u64 = 32;

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// As it should be; sent once or more often.
    Good { again: bool },
    /// Not as due, and nothing wrong in it.
    Missed,
    /// The proxy broke its word.
    Broken(String),
}

/// Judges what came of a request, with all its arrivals.
pub(super) fn judge(heard: &Heard, arrivals: &[Arrival]) -> Found {
    let broken = |why: &str| Found::Broken(format!("{why}: {} arrivals", arrivals.len()));
    let sends = heard.told.attempts.unwrap_or(SENDS_MAX);
    let differs = |one: &Arrival| one.body.is_some_and(|hash| hash != heard.request.body_hash);
    // What the origin itself is late to see is late in both its arrivals.
    let late = |pair: &[Arrival]| pair[1].at > heard.ended.max(pair[0].at) + NOTICE;
    if let Outcome::Wrong(why) = &heard.outcome {
        return broken(why);
    }
    if heard.outcome == Outcome::Hung {
        return broken("no end within the client's patience");
    }
    if arrivals.iter().any(|one| one.after_answer) {
        return broken("sent again after a byte of an answer");
    }
    if arrivals.iter().any(differs) {
        return broken("another body arrived");
    }
    if arrivals.len() > sends {
        return broken(&format!("the client is told of {sends}"));
    }
    if heard.outcome == Outcome::Left && arrivals.windows(2).any(late) {
        return broken("sent again after its client's end");
    }
    let due = LOTS[heard.request.lot].due;
    if matches!(due, Due::Left(Place::Head | Place::Body)) && !arrivals.is_empty() {
        return broken("sent before it was there");
    }
    if let Outcome::Right(number) = heard.outcome
        && (number + 1 != arrivals.len() || arrivals[number].body.is_none())
    {
        return broken(&format!("answer {number} is not the last arrival's"));
    }
    let is_due = match (due, &heard.outcome) {
        (Due::Answer, Outcome::Right(_)) => true,
        (Due::Status(due), Outcome::Status(status)) => due == *status,
        (Due::Broken, Outcome::Broken) | (Due::Left(_), Outcome::Left) => true,
        _ => false,
    };
    let is_clean = matches!(heard.outcome, Outcome::Status(500..) | Outcome::Broken);
    match (is_due, is_clean) {
        (true, _) => Found::Good {
            again: arrivals.len() > 1,
        },
        (false, true) => Found::Missed,
        (false, false) => broken(&format!("{:?} instead of {due:?}", heard.outcome)),
    }
}

/// What the run as a whole is found guilty of.
pub(super) fn faults(
    kinds: &[SoakKind],
    samples: &[SoakSample],
    idle: Holdings,
    after: Holdings,
    workers: u64,
) -> Vec<String> {
    let mut faults = Vec::new();
    let sum = |count: fn(&SoakKind) -> u64| kinds.iter().map(count).sum::<u64>();
    let (requests, missed) = (sum(|kind| kind.requests), sum(|kind| kind.missed));
    let broken = sum(|kind| kind.broken);
    if broken > 0 {
        faults.push(format!("{broken} requests broke the promise"));
    }
    if missed * MISSED_ONE_IN > requests {
        faults.push(format!(
            "{missed} of {requests} requests were not answered as due"
        ));
    }
    if requests == 0 {
        faults.push("no request was made".to_owned());
    }
    faults.extend(growth(samples));
    let kept_max = kept_max(idle, workers);
    if after.descriptors > kept_max {
        let (after, idle) = (after.descriptors, idle.descriptors);
        faults.push(format!(
            "{after} descriptors afterwards, {idle} before, at most {kept_max} may be kept"
        ));
    }
    faults
}

/// Descriptors that it may have when it is idle again.
pub(super) fn kept_max(idle: Holdings, workers: u64) -> u64 {
    idle.descriptors + KEPT_BY_WORKER * workers
}

/// Where the medians of the first and the last third of a run, without its beginning, differ too much.
fn growth(samples: &[SoakSample]) -> Vec<String> {
    let samples = &samples[(samples.len() as f64 * WARM_UP) as usize..];
    let third = samples.len() / 3;
    if third < THIRD_SAMPLES_MIN {
        return Vec::new();
    }
    let (first, last) = (&samples[..third], &samples[samples.len() - third..]);
    type Read = fn(&Holdings) -> u64;
    let all: [(&str, Read, f64); 4] = [
        ("KiB resident", |held| held.rss_kib, GROWTH_RSS_KIB),
        ("descriptors", |held| held.descriptors, GROWTH_COUNT),
        ("threads", |held| held.threads, GROWTH_COUNT),
        ("ring workers", |held| held.io_workers, GROWTH_COUNT),
    ];
    let grown = |&(what, read, more): &(&str, Read, f64)| {
        let median = |samples: &[SoakSample]| {
            Figure::of(samples.iter().map(|sample| read(&sample.held) as f64))
        };
        let (before, after) = (median(first)?.median, median(last)?.median);
        (after > before * GROWTH_MAX + more)
            .then(|| format!("{before:.0} {what} in the first third, {after:.0} in the last"))
    };
    all.iter().filter_map(grown).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{load::response::Told, soak::script::Script};

    fn of_lot(name: &str) -> Heard {
        let script = Script::default();
        let mut requests = (0..).map(|index| script.request(index));
        let request = requests.find(|request| LOTS[request.lot].name == name);
        Heard {
            request: request.expect("every lot is met"),
            outcome: Outcome::Right(0),
            told: Told {
                status: 200,
                attempts: Some(1),
                refusal: None,
            },
            ended: Instant::now(),
        }
    }

    fn arrival(heard: &Heard) -> Arrival {
        Arrival {
            at: heard.ended,
            body: Some(heard.request.body_hash),
            answered: None,
            after_answer: false,
        }
    }

    #[test]
    fn what_is_as_due_is_good() {
        let mut small = of_lot("small");
        let one = arrival(&small);
        assert_eq!(
            judge(&small, std::slice::from_ref(&one)),
            Found::Good { again: false }
        );
        small.told.attempts = Some(2);
        small.outcome = Outcome::Right(1);
        assert_eq!(
            judge(&small, &[one.clone(), one]),
            Found::Good { again: true }
        );
        let mut left = of_lot("leaves in the body");
        left.outcome = Outcome::Left;
        assert_eq!(judge(&left, &[]), Found::Good { again: false });
        let mut late = of_lot("small");
        late.outcome = Outcome::Status(504);
        assert_eq!(judge(&late, &[]), Found::Missed);
    }

    #[test]
    fn every_broken_promise_is_seen() {
        let small = || of_lot("small");
        let one = arrival(&small());
        let broken = |heard: &Heard, arrivals: &[Arrival]| {
            let found = judge(heard, arrivals);
            assert!(matches!(found, Found::Broken(_)), "{found:?}");
        };
        broken(&small(), &[one.clone(), one.clone()]);
        broken(&small(), &[]);
        for spoil in [
            (|one| one.after_answer = true) as fn(&mut Arrival),
            |one| one.body = Some(0),
            |one| one.body = None,
        ] {
            let mut arrival = one.clone();
            spoil(&mut arrival);
            broken(&small(), &[arrival]);
        }
        for outcome in [
            Outcome::Wrong(String::new()),
            Outcome::Hung,
            Outcome::Status(413),
            Outcome::Left,
            Outcome::Right(1),
        ] {
            let mut heard = small();
            heard.outcome = outcome;
            broken(&heard, std::slice::from_ref(&one));
        }
        let mut left = of_lot("leaves while it waits");
        (left.outcome, left.told.attempts) = (Outcome::Left, None);
        let (first, mut second) = (arrival(&left), arrival(&left));
        second.at += NOTICE * 2;
        broken(&left, &[first, second]);
        let mut early = of_lot("leaves in the body");
        early.outcome = Outcome::Left;
        broken(&early, &[arrival(&early)]);
        let mut cut = of_lot("cut");
        cut.outcome = Outcome::Right(0);
        broken(&cut, &[arrival(&cut)]);
    }

    fn samples(rss_kib: impl Fn(u64) -> u64) -> Vec<SoakSample> {
        let sample = |second| SoakSample {
            second: second as f64,
            requests: second * 1000,
            held: Holdings {
                rss_kib: rss_kib(second),
                descriptors: 100,
                threads: 5,
                io_workers: 0,
            },
        };
        (0..200).map(sample).collect()
    }

    #[test]
    fn a_leak_is_told_from_a_load_that_comes_and_goes() {
        assert!(growth(&samples(|second| 20_000 + second % 7 * 5_000)).is_empty());
        assert!(growth(&samples(|second| 20_000 - 5_000 / (second + 1))).is_empty());
        let leak = growth(&samples(|second| {
            20_000 + second % 7 * 5_000 + second * 150
        }));
        assert_eq!(leak.len(), 1, "{leak:?}");
    }

    #[test]
    fn a_run_is_at_fault_for_what_its_requests_were() {
        let kind = SoakKind {
            name: "small".to_owned(),
            requests: 5000,
            again: 0,
            missed: 5,
            broken: 0,
        };
        let idle = Holdings {
            descriptors: 20,
            ..Holdings::default()
        };
        let faults = |kind: &SoakKind, descriptors| {
            let after = Holdings {
                descriptors,
                ..idle
            };
            faults(std::slice::from_ref(kind), &[], idle, after, 2).len()
        };
        assert_eq!(faults(&kind, 84), 0);
        assert_eq!(faults(&kind, 85), 1);
        let (missed, broken) = (6, 1);
        assert_eq!(
            faults(
                &SoakKind {
                    missed,
                    ..kind.clone()
                },
                20
            ),
            1
        );
        assert_eq!(
            faults(
                &SoakKind {
                    broken,
                    ..kind.clone()
                },
                20
            ),
            1
        );
        assert_eq!(
            faults(
                &SoakKind {
                    requests: 0,
                    missed: 0,
                    ..kind
                },
                20
            ),
            1
        );
    }
}
