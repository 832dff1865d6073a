//! What is compared: the kinds of work, who takes part in each, and the numbers to reach.
use crate::{
    load::Work,
    results::{Bar, Measure},
};

/// One kind of work, before it is measured.
pub struct Plan {
    /// Also names it on the command line.
    pub id: &'static str,
    pub title: String,
    pub load: Work,
    /// Whether the proxies speak TLS to the origin.
    pub tls: bool,
    pub contestants: &'static [&'static str],
    pub bars: Vec<Bar>,
}

const ALL: &[&str] = &[
    "proxy", "nginx", "haproxy", "caddy", "envoy", "relay", "direct",
];
const ALL_TLS: &[&str] = &["proxy", "nginx", "haproxy", "caddy", "envoy"];
/// Where a peer at several times the cost would only take time.
const CLOSE: &[&str] = &["proxy", "nginx", "haproxy", "relay", "direct"];
const BULK: &[&str] = &[
    "proxy",
    "nginx",
    "nginx-tuned",
    "haproxy",
    "haproxy-tuned",
    "relay",
    "direct",
];
const BULK_TLS: &[&str] = &["proxy", "nginx", "nginx-tuned", "haproxy", "haproxy-tuned"];

/// What the bars are set against.
const PEERS: &[&str] = &["nginx", "haproxy"];
const TUNED: &[&str] = &["nginx-tuned", "haproxy-tuned"];
const PEERS_AND_TUNED: &[&str] = &["nginx", "nginx-tuned", "haproxy", "haproxy-tuned"];

const DOWNLOAD_CONNECTIONS: usize = 4;
const MANY_STREAMS: usize = 5000;
const EVENT_BYTES: usize = 200;

impl Plan {
    /// Whether memory per stream is measured.
    pub fn measures_memory(&self) -> bool {
        self.bars
            .iter()
            .any(|bar| bar.measure == Measure::StreamMemory)
    }
}

/// All kinds of work, in the order of reports. The quick ones take fewer streams.
pub fn all(quick: bool) -> Vec<Plan> {
    [posts(), downloads(), streams(quick)]
        .into_iter()
        .flatten()
        .collect()
}

fn posts() -> Vec<Plan> {
    vec![
        Plan {
            id: "post-1k-64",
            title: "POST 1 KB -> 1 KB, 64 keep-alive connections, flat out".to_owned(),
            load: post(1024, 64, true, None),
            tls: false,
            contestants: ALL,
            bars: vec![
                bar(Measure::Cpu, PEERS, 0.75),
                bar(Measure::Cpu, &["relay"], 1.3),
            ],
        },
        Plan {
            id: "post-1k-512",
            title: "POST 1 KB -> 1 KB, 512 keep-alive connections, flat out".to_owned(),
            load: post(1024, 512, true, None),
            tls: false,
            contestants: ALL,
            bars: vec![
                bar(Measure::Cpu, PEERS, 0.6),
                bar(Measure::Cpu, &["relay"], 1.3),
            ],
        },
        Plan {
            id: "post-1k-rate-5000",
            title: "POST 1 KB -> 1 KB, 5000 requests/s at 64 connections, open loop".to_owned(),
            load: post(1024, 64, true, Some(5000.0)),
            tls: false,
            contestants: ALL,
            bars: vec![
                bar(Measure::Cpu, PEERS, 0.85),
                bar(Measure::P99, PEERS, 1.0),
            ],
        },
        Plan {
            id: "post-1k-new-conn",
            title: "POST 1 KB -> 1 KB, a new client connection for each request".to_owned(),
            load: post(1024, 64, false, None),
            tls: false,
            contestants: CLOSE,
            bars: vec![bar(Measure::Cpu, PEERS, 0.9)],
        },
        Plan {
            id: "post-100k",
            title: "POST 100 KB -> 1 KB, 64 keep-alive connections, flat out".to_owned(),
            load: post(100 << 10, 64, true, None),
            tls: false,
            contestants: CLOSE,
            bars: vec![bar(Measure::Cpu, PEERS, 0.8)],
        },
        Plan {
            id: "post-1k-tls",
            title: "POST 1 KB -> 1 KB, 64 keep-alive connections, TLS upstream".to_owned(),
            load: post(1024, 64, true, None),
            tls: true,
            contestants: ALL_TLS,
            bars: vec![bar(Measure::Cpu, PEERS, 0.85)],
        },
        Plan {
            id: "latency-1",
            title: "POST 1 KB -> 1 KB, one connection: the latency a proxy adds to direct"
                .to_owned(),
            load: post(1024, 1, true, None),
            tls: false,
            contestants: CLOSE,
            bars: vec![bar(Measure::P50, PEERS, 1.0), bar(Measure::P99, PEERS, 1.0)],
        },
    ]
}

fn downloads() -> Vec<Plan> {
    vec![
        Plan {
            id: "get-64m-length",
            title: "64 MB by Content-Length".to_owned(),
            load: download("", 64 << 20),
            tls: false,
            contestants: BULK,
            bars: vec![
                bar(Measure::Cpu, &["nginx"], 0.35),
                bar(Measure::Cpu, TUNED, 0.6),
            ],
        },
        Plan {
            id: "get-64m-chunked",
            title: "64 MB, chunked".to_owned(),
            load: download("/chunked", 64 << 20),
            tls: false,
            contestants: BULK,
            bars: vec![
                bar(Measure::Cpu, &["nginx"], 0.45),
                bar(Measure::Cpu, TUNED, 0.75),
            ],
        },
        Plan {
            id: "get-64m-tls",
            title: "64 MB by Content-Length, TLS upstream".to_owned(),
            load: download("", 64 << 20),
            tls: true,
            contestants: BULK_TLS,
            bars: vec![bar(Measure::Cpu, PEERS_AND_TUNED, 0.9)],
        },
        Plan {
            id: "get-1m-length",
            title: "1 MB by Content-Length".to_owned(),
            load: download("", 1 << 20),
            tls: false,
            contestants: BULK,
            bars: vec![
                bar(Measure::Cpu, &["nginx"], 0.5),
                bar(Measure::Cpu, TUNED, 0.7),
            ],
        },
    ]
}

fn streams(quick: bool) -> Vec<Plan> {
    let many = if quick {
        MANY_STREAMS / 10
    } else {
        MANY_STREAMS
    };
    vec![
        Plan {
            id: "sse-100x200",
            title: "Events: 100 streams at 200 events/s of 200 bytes".to_owned(),
            load: events(100, 5000),
            tls: false,
            contestants: ALL,
            bars: vec![
                bar(Measure::Cpu, PEERS, 0.85),
                bar(Measure::P99, PEERS, 1.0),
            ],
        },
        Plan {
            id: "sse-flat-out",
            title: "Events: 100 streams, 200 bytes, flat out".to_owned(),
            load: events(100, 0),
            tls: false,
            contestants: ALL,
            bars: vec![bar(Measure::Cpu, PEERS, 0.8)],
        },
        Plan {
            id: "sse-5000",
            title: format!("Events: {many} streams at 1 event/s of 200 bytes"),
            load: events(many, 1_000_000),
            tls: false,
            contestants: ALL,
            bars: vec![
                bar(Measure::StreamMemory, &[], 4.0),
                bar(Measure::Cpu, PEERS, 0.9),
            ],
        },
        Plan {
            id: "sse-5000-tls",
            title: format!("Events: {many} streams at 1 event/s of 200 bytes, TLS upstream"),
            load: events(many, 1_000_000),
            tls: true,
            contestants: ALL_TLS,
            bars: vec![
                bar(Measure::StreamMemory, &[], 24.0),
                bar(Measure::Cpu, PEERS, 0.9),
            ],
        },
    ]
}

/// POST of `body_bytes`, answered with 1 KB.
pub fn post(body_bytes: usize, connections: usize, keep_alive: bool, rate: Option<f64>) -> Work {
    let path = "/bytes/1024".to_owned();
    Work::Requests {
        path,
        body_bytes,
        response_bytes: 1024,
        connections,
        keep_alive,
        rate,
    }
}

fn download(framing: &str, bytes: u64) -> Work {
    let path = format!("/bytes/{bytes}{framing}");
    Work::Downloads {
        path,
        bytes,
        connections: DOWNLOAD_CONNECTIONS,
    }
}

fn events(streams: usize, interval_us: u64) -> Work {
    let path = format!("/sse/0/{EVENT_BYTES}/{interval_us}");
    Work::Streams {
        path,
        streams,
        event_bytes: EVENT_BYTES,
    }
}

/// A bar: `ratio` times the best of `against`.
pub fn bar(measure: Measure, against: &[&str], ratio: f64) -> Bar {
    let against = against.iter().map(|&name| name.to_owned()).collect();
    Bar {
        measure,
        against,
        ratio,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_a_bar_names_takes_part() {
        for plan in all(false) {
            let missing = plan.bars.iter().flat_map(|bar| &bar.against);
            let missing = missing.filter(|name| !plan.contestants.contains(&name.as_str()));
            assert_eq!(
                missing.collect::<Vec<_>>(),
                Vec::<&String>::new(),
                "{}",
                plan.id
            );
            assert!(plan.contestants.contains(&"proxy"), "{}", plan.id);
            let plain_only = ["relay", "direct"].map(|name| plan.contestants.contains(&name));
            assert!(
                !plan.tls || plain_only == [false; 2],
                "{}: the load is plain",
                plan.id
            );
        }
    }
}
