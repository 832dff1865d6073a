//! What was found, as it is kept: measured by `compare`, `soak` and `siege`, shown by `report`.
use serde::{Deserialize, Serialize};

use crate::process::Holdings;

/// One run of the whole comparison.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    pub machine: Machine,
    /// Commit of the proxy, with `+` behind it where the work tree had changes.
    pub commit: String,
    /// UTC, `YYYY-MM-DD HH:MM`.
    pub started: String,
    /// The quick variant: shows that everything works, its figures mean little.
    pub quick: bool,
    pub rounds: usize,
    pub contestants: Vec<Contestant>,
    pub works: Vec<Work>,
    pub rescue: Vec<Rescue>,
    pub footprint: Option<Footprint>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_gib: u64,
    pub kernel: String,
}

/// Who takes part. `name` is what samples refer to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Contestant {
    /// `proxy` (ours), `nginx`, `nginx-tuned`, `haproxy`, `haproxy-tuned`, `caddy`, `envoy`, `relay`, `direct`.
    pub name: String,
    pub version: String,
    /// In a few words, such as its configuration file.
    pub note: String,
}

/// One kind of work and what each contestant needed for it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Work {
    /// `post-1k-64`
    pub id: String,
    /// `POST 1 KB -> 1 KB, 64 keep-alive connections`
    pub title: String,
    /// What the cost is counted by: `request`, `GB`, `event`.
    pub unit: String,
    /// One for each contestant and round, in the order they were taken.
    pub samples: Vec<Sample>,
    pub bars: Vec<Bar>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    pub contestant: String,
    pub round: usize,
    /// CPU time of the whole process tree per unit: microseconds per request or event, seconds per GB.
    /// `None` for `direct`.
    pub cpu: Option<f64>,
    /// Units per second.
    pub rate: f64,
    /// Latencies in microseconds, where the work has any.
    pub latency: Option<Latency>,
    /// Resident memory per stream in KiB, where it is measured.
    pub stream_kib: Option<f64>,
    /// Responses with a wrong byte, a wrong length, or doubled: must be 0.
    pub wrong: u64,
    /// Requests without a proper response.
    pub errors: u64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

/// A number to reach: the proxy's `measure` is at most `ratio` times the best of `against`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bar {
    pub measure: Measure,
    /// Names of contestants; the one with the lowest median counts.
    pub against: Vec<String>,
    pub ratio: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    Cpu,
    P50,
    P99,
    /// Resident memory per stream. A bar on it with nobody in `against` is absolute: `ratio` in KiB.
    StreamMemory,
}

/// What became of the requests of the rescue scenario behind one contestant.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rescue {
    pub contestant: String,
    pub requests: u64,
    /// Answered right although an attempt failed.
    pub rescued: u64,
    /// Answered right at the first attempt.
    pub answered: u64,
    /// Told so by a proper error response or a visibly cut one.
    pub failed_cleanly: u64,
    /// A truncated or mixed-up response that looked complete, bytes passed on that are no response, or a
    /// request that arrived with another body: must be 0.
    pub wrong: u64,
    /// Requests of which the client got no end within the scenario's patience.
    pub hung: u64,
    /// Requests that the origin saw sent again after it had begun to answer them: must be 0.
    pub replayed_after_answer: u64,
    /// Times the origin saw requests, by all requests.
    pub sends: u64,
    /// Median and 99th percentile of the time to a rescued answer, in milliseconds.
    pub rescued_p50_ms: f64,
    pub rescued_p99_ms: f64,
}

/// What the proxy needs before it does anything.
#[derive(Debug, Serialize, Deserialize)]
pub struct Footprint {
    /// From exec to the first response, in milliseconds, median.
    pub first_response_ms: f64,
    pub idle_rss_mib: f64,
    pub stripped_binary_mib: f64,
    /// CPU per request with two workers over that with one.
    pub two_workers_cpu_ratio: Option<f64>,
    /// Requests per second with two workers over that with one.
    pub two_workers_rate_ratio: Option<f64>,
}

/// One run of the soak.
#[derive(Debug, Serialize, Deserialize)]
pub struct Soak {
    pub machine: Machine,
    pub commit: String,
    pub started: String,
    pub contestant: Contestant,
    pub seconds: f64,
    pub clients: usize,
    pub workers: u64,
    /// Before the load, and after it.
    pub idle: Holdings,
    pub after: Holdings,
    pub samples: Vec<SoakSample>,
    pub kinds: Vec<SoakKind>,
    /// Some requests that were broken or missed, in words.
    pub examples: Vec<String>,
    /// Must be none.
    pub faults: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SoakSample {
    /// Since the beginning.
    pub second: f64,
    /// Until then.
    pub requests: u64,
    pub held: Holdings,
}

/// What became of the requests of one kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SoakKind {
    pub name: String,
    pub requests: u64,
    /// Ended as due, and were sent more than once.
    pub again: u64,
    /// Did not end as due, and nothing was wrong.
    pub missed: u64,
    /// The promise was broken: must be 0.
    pub broken: u64,
}

/// One run of the siege.
#[derive(Debug, Serialize, Deserialize)]
pub struct Siege {
    pub machine: Machine,
    pub commit: String,
    pub started: String,
    pub quick: bool,
    /// That each attack lasts.
    pub seconds: f64,
    pub contestants: Vec<Contestant>,
    pub assaults: Vec<Assault>,
}

/// One attack on one contestant.
#[derive(Debug, Serialize, Deserialize)]
pub struct Assault {
    pub attack: String,
    pub contestant: String,
    /// What the attackers did, in words.
    pub did: String,
    pub bystanders: Bystanders,
    pub before: Holdings,
    /// The most of each.
    pub peak: Holdings,
    /// A few seconds after the attack.
    pub after: Holdings,
}

/// What those felt who had nothing to do with it; latency counts from when a request was due.
#[derive(Debug, Serialize, Deserialize)]
pub struct Bystanders {
    pub answered: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    pub errors: u64,
    pub wrong: u64,
    pub examples: Vec<String>,
}
