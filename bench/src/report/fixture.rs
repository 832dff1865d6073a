//! Made-up results of the size and shape of real ones.
use crate::results::*;

const CONTESTANTS: &str = "proxy nginx nginx-tuned haproxy haproxy-tuned caddy envoy relay direct";
const ROUNDS: usize = 7;

/// Identity; title; unit; CPU in the order of the contestants; the proxy's p50; its KiB per stream; bars.
const WORKS: &str = "\
post-1k-64; POST 1 KB -> 1 KB, 64 keep-alive connections; request; 14.1 20.8 20.9 20.2 20.4 135 56 12; 950; -; cpu 0.75 nginx haproxy, cpu 1.3 relay
post-1k-512; POST 1 KB -> 1 KB, 512 keep-alive connections; request; 17.4 34.8 34.6 32.9 33 148 71 14; 9100; -; cpu 0.6 nginx haproxy, cpu 1.3 relay
post-1k-rate; POST 1 KB -> 1 KB, 5 000 requests/s; request; 31 38.5 38 36.1 36.3 210 92 27; 142; -; cpu 0.85 nginx haproxy, p99 1 nginx haproxy
post-1k-new; POST 1 KB -> 1 KB, a new connection each; request; 48 55 55.2 52.4 52 240 120 41; 310; -; cpu 0.9 nginx haproxy
post-100k; POST 100 KB -> 1 KB; request; 46.5 57 49 102 66 310 150 77; 720; -; cpu 0.8 nginx haproxy
post-1k-tls; POST 1 KB -> 1 KB, TLS upstream; request; 19 26 26.2 25.1 25 160 70 12.1; 980; -; cpu 0.85 nginx haproxy
get-64m; 64 MB by Length; GB; 0.29 1.07 0.7 1.06 0.56 1.7 1.3 0.67; -; -; cpu 0.35 nginx, cpu 0.6 nginx haproxy nginx-tuned haproxy-tuned
get-64m-chunked; 64 MB chunked; GB; 0.41 1.12 0.78 1.15 0.62 1.8 1.4 0.66; -; -; cpu 0.45 nginx, cpu 0.75 nginx haproxy nginx-tuned haproxy-tuned
get-64m-tls; 64 MB, TLS upstream; GB; 0.92 1.45 1.2 1.5 1.01 2.4 2 0.67; -; -; cpu 0.9 nginx haproxy
get-1m; 1 MB by Length; GB; 0.44 1.1 0.75 1.09 0.61 1.9 1.5 0.68; -; -; cpu 0.5 nginx, cpu 0.7 nginx haproxy nginx-tuned haproxy-tuned
sse-200; SSE, 100 streams, 200 events/s of 200 bytes; event; 12.5 16.2 16 14.9 15.1 41 35 10.4; 96; -; cpu 0.85 nginx haproxy, p99 1 nginx haproxy
sse-flat; SSE flat out, 100 streams; event; 1.45 1.92 1.7 1.66 1.5 8.8 5.1 1.2; -; -; cpu 0.8 nginx haproxy
sse-5000; 5 000 streams, 1 event/s; event; 14.2 17 17.1 18.8 19 52 44 11; 210; 3.6; stream_memory 3.5, cpu 0.9 nginx haproxy
sse-5000-tls; 5 000 streams, 1 event/s, TLS upstream; event; 18.2 22 22.1 21.8 22 60 51 11; 230; 21.4; stream_memory 24, cpu 0.9 nginx haproxy
one; 1 connection, 1 KB; request; 26 34 34.1 33 33.5 160 88 22; 61; -; p50 1 nginx haproxy, p99 1 nginx haproxy";

fn work(line: &str) -> Work {
    let fields: Vec<&str> = line.split("; ").collect();
    let cpu: Vec<f64> = fields[3].split(' ').map(|v| v.parse().unwrap()).collect();
    let (latency, stream): (Option<f64>, Option<f64>) =
        (fields[4].parse().ok(), fields[5].parse().ok());
    let sample = |round: usize, (place, name): (usize, &str)| {
        // Some noise that is the same in every run.
        let noise = 0.95 + ((round * 89 + place * 53 + fields[0].len() * 11) % 23) as f64 / 230.0;
        let cost = cpu.get(place).copied();
        let slowness = noise * cost.map_or(0.5, |cost| 0.3 + 0.7 * cost / cpu[0]);
        Sample {
            contestant: name.to_owned(),
            round,
            cpu: cost.map(|cost| cost * noise),
            rate: if fields[2] == "GB" { 1.0 } else { 1e6 } / cpu[0] / slowness,
            latency: latency.map(|p50| Latency {
                p50: p50 * slowness,
                p99: p50 * slowness * 3.1,
                p999: p50 * slowness * 7.5,
            }),
            stream_kib: stream.map(|kib| kib * noise * (1 + 2 * place) as f64),
            wrong: 0,
            errors: 0,
        }
    };
    let contestants = || CONTESTANTS.split(' ').enumerate();
    Work {
        id: fields[0].to_owned(),
        title: fields[1].to_owned(),
        unit: fields[2].to_owned(),
        samples: (0..ROUNDS)
            .flat_map(|round| contestants().map(move |contestant| (round, contestant)))
            .map(|(round, contestant)| sample(round, contestant))
            .collect(),
        bars: fields[6].split(", ").map(bar).collect(),
    }
}

fn bar(words: &str) -> Bar {
    let words: Vec<&str> = words.split(' ').collect();
    Bar {
        measure: serde_json::from_value(words[0].into()).unwrap(),
        against: words[2..].iter().map(|name| (*name).to_owned()).collect(),
        ratio: words[1].parse().unwrap(),
    }
}

fn rescue(contestant: &str, [rescued, failed_cleanly, wrong, hung]: [u64; 4]) -> Rescue {
    Rescue {
        contestant: contestant.to_owned(),
        requests: 20_000,
        answered: 20_000 - rescued - failed_cleanly - wrong - hung,
        rescued,
        failed_cleanly,
        wrong,
        hung,
        replayed_after_answer: 0,
        sends: 20_000 + rescued * 5 / 4,
        rescued_p50_ms: 1_004.0,
        rescued_p99_ms: 2_031.0,
    }
}

pub(super) fn results() -> Results {
    let contestant = |name: &str| Contestant {
        name: name.to_owned(),
        version: "1.22.1".to_owned(),
        note: format!("bench/peers/{name}.conf"),
    };
    Results {
        machine: Machine {
            cpu: "Some CPU at 2.90GHz".to_owned(),
            cores: 2,
            memory_gib: 24,
            kernel: "6.18.5".to_owned(),
        },
        commit: "eb852dd0c1f2".to_owned(),
        started: "2026-11-25 13:20".to_owned(),
        quick: false,
        rounds: ROUNDS,
        contestants: CONTESTANTS.split(' ').map(contestant).collect(),
        works: WORKS.lines().map(work).collect(),
        rescue: vec![
            rescue("proxy", [4_320, 680, 0, 0]),
            rescue("nginx", [1_850, 1_950, 0, 1_200]),
            rescue("haproxy", [1_640, 2_480, 0, 880]),
            rescue("caddy", [900, 2_100, 40, 1_960]),
            rescue("direct", [0, 2_600, 0, 2_400]),
        ],
        footprint: Some(Footprint {
            first_response_ms: 11.2,
            idle_rss_mib: 6.4,
            stripped_binary_mib: 4.31,
            two_workers_cpu_ratio: Some(1.03),
            two_workers_rate_ratio: Some(1.72),
        }),
    }
}
