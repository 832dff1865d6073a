//! The numbers for Prometheus, in its text format.
use std::fs;
use std::time::SystemTime;

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::admin::about::About;
use crate::downstream::reply::Own;
use crate::telemetry::counters::{self, BOUNDS, Count, Family, Series};
use crate::telemetry::whole::Whole;
use crate::telemetry::words::Phase;

/// Version 0.0.4 of the format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Before every name that is the program's own.
const PREFIX: &str = "codex_reset_proxy_";

/// The text as an answer.
pub(super) fn answer(about: &About, whole: &Whole, silent: usize) -> Own<'static> {
    Own {
        content_type: CONTENT_TYPE,
        ..Own::json((200, "OK"), text(about, whole, silent))
    }
}

/// Everything there is to tell. `silent`: cores that have not answered, for which `whole` has what they
/// said before. Every series is there from the start: rates need a zero to begin with.
fn text(about: &About, whole: &Whole, silent: usize) -> String {
    let mut families: Vec<_> = whole.counters.families().iter().map(counted).collect();
    families.extend(held(about, whole));
    families.extend(of_cores(about, whole, silent));
    families.extend(of_process(about));
    let text = TextEncoder::new().encode_to_string(&families);
    text.expect("every family has a name and a series")
}

fn counted(family: &Family<'_>) -> MetricFamily {
    let (kind, suffix, metrics) = match &family.series {
        Series::Counts(series) => {
            let number = |count: &Count| count.value() as f64;
            let metrics = series
                .iter()
                .map(|(labels, count)| counter(labels, number(count)));
            (MetricType::COUNTER, "_total", metrics.collect())
        }
        Series::Histograms(series) => {
            let metrics = series
                .iter()
                .map(|(labels, times)| histogram(labels, times));
            (MetricType::HISTOGRAM, "", metrics.collect())
        }
    };
    let name = format!("{PREFIX}{}{suffix}", family.name);
    of_kind(kind, name, family.help, metrics)
}

fn counter(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = Metric::from_label(pairs(labels));
    metric.set_counter(counter);
    metric
}

/// Buckets are cumulative; the encoder adds the one without a bound.
fn histogram(labels: &[(&str, &str)], times: &counters::Histogram) -> Metric {
    let mut below = 0;
    let all = times.buckets();
    let buckets = BOUNDS.iter().zip(all).map(|(bound, count)| {
        below += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / 1e9);
        bucket.set_cumulative_count(below);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(all.iter().sum());
    histogram.set_sample_sum(times.sum().as_secs_f64());
    let mut metric = Metric::from_label(pairs(labels));
    metric.set_histogram(histogram);
    metric
}

/// What the cores hold, and how much of it they may.
fn held(about: &About, whole: &Whole) -> Vec<MetricFamily> {
    let gauges = &whole.gauges;
    let phases = Phase::NAMES.into_iter().zip(whole.phases);
    let in_flight = phases.map(|(name, count)| gauge(&[("phase", name)], count as f64));
    let mut families = vec![
        own(
            "exchanges_in_flight",
            "Requests that are going on, by what they are at.",
            in_flight.collect(),
        ),
        own(
            "client_connections",
            "Open connections of clients.",
            one(gauges.client_connections as f64),
        ),
        own(
            "client_connections_limit",
            "MAX_CLIENT_CONNECTIONS.",
            one(about.client_connections_max as f64),
        ),
        own(
            "idle_upstream_connections",
            "Connections to the upstream that wait for a request.",
            one(gauges.idle_connections as f64),
        ),
        own(
            "buffered_body_bytes",
            "Memory that request bodies hold.",
            one(gauges.buffered_bytes as f64),
        ),
        own(
            "buffered_body_limit_bytes",
            "MAX_BUFFERED_BYTES.",
            one(about.buffered_bytes_max as f64),
        ),
        own(
            "followed_responses",
            "Responses that are read to a near end although their client has left, to keep the connection.",
            one(gauges.drains as f64),
        ),
    ];
    families.extend(gauges.replays_left.map(|left| {
        own(
            "replays_left",
            "Attempts after the first that RETRY_BUDGET_PERCENT allows now; absent where it is unset.",
            one(left as f64),
        )
    }));
    families
}

fn of_cores(about: &About, whole: &Whole, silent: usize) -> [MetricFamily; 5] {
    let labels = [
        ("version", about.version),
        ("driver", about.driver.as_str()),
    ];
    [
        own(
            "draining",
            "1 from SIGTERM on: no more connections are accepted.",
            one(f64::from(u8::from(whole.gauges.draining))),
        ),
        own(
            "workers",
            "Threads that serve clients.",
            one(about.workers as f64),
        ),
        own(
            "silent_workers",
            "Workers that have not answered in time: their numbers are those of their last answer.",
            one(silent as f64),
        ),
        of_kind(
            MetricType::COUNTER,
            format!("{PREFIX}log_lines_lost_total"),
            "Log lines that stdout was read too slowly for.",
            vec![counter(&[], whole.log_lines_lost as f64)],
        ),
        own(
            "build_info",
            "Always 1; its labels say what runs.",
            vec![gauge(&labels, 1.0)],
        ),
    ]
}

/// What Prometheus' own libraries tell of every process, under their names, as far as /proc is to be
/// had.
fn of_process(about: &About) -> Vec<MetricFamily> {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu_seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    let started = about.started.duration_since(SystemTime::UNIX_EPOCH);
    let told = [
        (
            "process_resident_memory_bytes",
            "Memory that is in use and not swapped out.",
            resident_bytes(),
        ),
        (
            "process_open_fds",
            "Open file descriptors.",
            // One of them reads the folder.
            fs::read_dir("/proc/self/fd")
                .ok()
                .map(|all| all.count().saturating_sub(1) as f64),
        ),
        (
            "process_max_fds",
            "As many file descriptors as may be open; absent without a limit.",
            getrlimit(Resource::Nofile).current.map(|max| max as f64),
        ),
        (
            "process_start_time_seconds",
            "When the process started, since the Unix epoch.",
            started.ok().map(|since| since.as_secs_f64()),
        ),
    ];
    let gauges = told.into_iter().filter_map(|(name, help, value)| {
        Some(of_kind(
            MetricType::GAUGE,
            name.to_owned(),
            help,
            one(value?),
        ))
    });
    let cpu = of_kind(
        MetricType::COUNTER,
        "process_cpu_seconds_total".to_owned(),
        "CPU time of all threads, user and kernel.",
        vec![counter(&[], cpu_seconds)],
    );
    [cpu].into_iter().chain(gauges).collect()
}

/// proc_pid_status(5) counts in KiB.
fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some((kib * 1024) as f64)
}

fn own(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    of_kind(MetricType::GAUGE, format!("{PREFIX}{name}"), help, metrics)
}

fn of_kind(kind: MetricType, name: String, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_field_type(kind);
    family.set_name(name);
    family.set_help(help.to_owned());
    family.set_metric(metrics);
    family
}

fn one(value: f64) -> Vec<Metric> {
    vec![gauge(&[], value)]
}

fn gauge(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(pairs(labels));
    metric.set_gauge(gauge);
    metric
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            version: "1.2.3",
            driver: "a \\ and a \" and a\nline".to_owned(),
            workers: 2,
            listen: crate::config::Listen::Unix("/run/s".into()),
            upstream: "http://upstream.example".to_owned(),
            client_connections_max: 10,
            buffered_bytes_max: 1 << 30,
            started: SystemTime::UNIX_EPOCH,
            header_timeout: std::time::Duration::from_secs(30),
            settings: Vec::new(),
        }
    }

    #[test]
    fn what_a_label_says_cannot_end_it() {
        let text = text(&about(), &Whole::default(), 0);
        let line =
            r#"codex_reset_proxy_build_info{version="1.2.3",driver="a \\ and a \" and a\nline"} 1"#;
        assert!(text.lines().any(|found| found == line), "{text}");
    }

    #[test]
    fn what_does_not_hold_is_not_told() {
        let mut whole = Whole::default();
        assert!(!text(&about(), &whole, 0).contains("replays_left"));
        whole.gauges.replays_left = Some(0);
        let text = text(&about(), &whole, 1);
        assert!(text.contains("\ncodex_reset_proxy_replays_left 0\n"));
        assert!(text.contains("\ncodex_reset_proxy_silent_workers 1\n"));
    }
}
