//! The state of the process for scripts: JSON.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::admin::about::About;
use crate::downstream::reply::Own;
use crate::telemetry::counters::{BOUNDS, Histogram, Labels, Series};
use crate::telemetry::live::{Going, Mishap};
use crate::telemetry::whole::Whole;
use crate::telemetry::words::Phase;

/// Whether all cores are there and none of them is about to end.
pub(super) fn health(whole: &Whole, silent: usize) -> Own<'static> {
    let (status, body) = match (whole.gauges.draining, silent) {
        (true, _) => (
            (503, "Service Unavailable"),
            json!({"ok": false, "draining": true}),
        ),
        (false, 0) => ((200, "OK"), json!({"ok": true})),
        (false, silent) => (
            (503, "Service Unavailable"),
            json!({"ok": false, "silent_workers": silent}),
        ),
    };
    Own::json(status, body.to_string())
}

/// All there is to know. `silent` cores have not answered: what they had said before stands.
pub(super) fn json(about: &About, whole: &Whole, silent: usize) -> String {
    let gauges = &whole.gauges;
    let phases = Phase::NAMES.iter().zip(whole.phases);
    let phases: Map<_, _> = phases.map(|(name, count)| pair(name, count)).collect();
    let counters = whole.counters.families().into_iter();
    let counters: Map<_, _> = counters
        .map(|family| pair(family.name, numbers(family.series)))
        .collect();
    let settings = about.settings.iter();
    let settings: Map<_, _> = settings.map(|(name, value)| pair(name, &**value)).collect();
    let status = json!({
        "version": about.version,
        "driver": about.driver,
        "workers": about.workers,
        "silent_workers": silent,
        "listen": about.listen.to_string(),
        "upstream": about.upstream,
        "started": unix(about.started),
        "now": unix(SystemTime::now()),
        "draining": gauges.draining,
        "in_flight": {
            "total": whole.in_flight(),
            "phases": phases,
            "oldest": whole.oldest.iter().map(going).collect::<Vec<_>>(),
        },
        "failures": whole.mishaps.iter().map(mishap).collect::<Vec<_>>(),
        "client_connections": gauges.client_connections,
        "idle_upstream_connections": gauges.idle_connections,
        "buffered_body_bytes": gauges.buffered_bytes,
        "followed_responses": gauges.drains,
        "replays_left": gauges.replays_left,
        "log_lines_lost": whole.log_lines_lost,
        "counters": counters,
        "settings": settings,
    });
    format!("{status}\n")
}

fn pair(name: &str, value: impl Into<Value>) -> (String, Value) {
    (name.to_owned(), value.into())
}

/// A number, where there is one; by label, where there is one label; a list otherwise.
fn numbers(series: Series<'_>) -> Value {
    let numbers: Vec<(Labels, Value)> = match series {
        Series::Counts(counts) => counts
            .into_iter()
            .map(|(labels, count)| (labels, count.value().into()))
            .collect(),
        Series::Histograms(histograms) => histograms
            .into_iter()
            .map(|(labels, times)| (labels, distribution(times)))
            .collect(),
    };
    match &numbers[..] {
        [(labels, value)] if labels.is_empty() => value.clone(),
        [(labels, _), ..] if labels.len() == 1 => {
            let by_label = numbers
                .iter()
                .map(|(labels, value)| pair(labels[0].1, value.clone()));
            Value::Object(by_label.collect())
        }
        _ => {
            let object = |(labels, value): &(Labels, Value)| {
                let labels = labels.iter().map(|(name, label)| pair(name, *label));
                let all = labels.chain([pair("value", value.clone())]);
                Value::Object(all.collect())
            };
            numbers.iter().map(object).collect()
        }
    }
}

/// Each bucket with the upper bound of its seconds; `null` = none.
fn distribution(times: &Histogram) -> Value {
    let bounds = BOUNDS
        .iter()
        .map(|nanos| json!(Duration::from_nanos(*nanos).as_secs_f64()));
    let bounds = bounds.chain([Value::Null]);
    let buckets = bounds.zip(times.buckets());
    let buckets: Vec<_> = buckets
        .map(|(bound, count)| json!({"up_to_seconds": bound, "count": count}))
        .collect();
    json!({
        "count": times.buckets().iter().sum::<u64>(),
        "sum_seconds": times.sum().as_secs_f64(),
        "buckets": buckets,
    })
}

fn going(going: &Going) -> Value {
    json!({
        "id": going.id,
        "method": going.method,
        "path": going.path,
        "phase": going.phase.name(),
        "attempt": going.attempt,
        "age_seconds": going.since.elapsed().as_secs_f64(),
    })
}

fn mishap(mishap: &Mishap) -> Value {
    json!({
        "at": unix(mishap.at),
        "id": mishap.id,
        "method": mishap.method,
        "path": mishap.path,
        "attempt": mishap.attempt.map(|(number, ..)| number),
        "phase": mishap.phase.name(),
        "failure": mishap.attempt.map(|(_, failure, _)| failure.name()),
        "delivery": mishap.attempt.map(|(.., delivery)| delivery.name()),
        "cause": mishap.cause,
        "then": mishap.then,
    })
}

/// Seconds since 1970, UTC.
fn unix(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
