//! What a proxy tells Prometheus, read by a parser of the tests' own.
use std::collections::BTreeMap;

use super::Proxy;
use super::net::eventually;

/// A port of its own for operators.
pub const ADMIN: (&str, &str) = ("ADMIN_PORT", "0");

const PREFIX: &str = "codex_reset_proxy_";

/// One look at all numbers. A series is called as Prometheus writes it, without the program's prefix and
/// without quotes: `exchanges_total{outcome=answered}`.
pub struct Numbers {
    pub text: String,
    series: BTreeMap<String, f64>,
}

impl Numbers {
    #[track_caller]
    pub fn of(proxy: &Proxy) -> Self {
        let response = proxy.asked("/metrics");
        assert_eq!(response.status(), 200, "{}", response.text());
        let kind = response.head.field("content-type");
        assert_eq!(
            kind.as_deref(),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        let text = response.text();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let mut series = BTreeMap::new();
        for line in lines {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let name = name.trim_start_matches(PREFIX).replace('"', "");
            let twice = series.insert(name, value.parse().unwrap());
            assert_eq!(twice, None, "{line}");
        }
        Self { text, series }
    }

    /// The numbers when `ended` exchanges have ended and nothing goes on: a client has its last byte a
    /// moment before that is counted.
    #[track_caller]
    pub fn after(proxy: &Proxy, ended: u64) -> Self {
        let mut numbers = Self::of(proxy);
        eventually("all exchanges are counted", || {
            numbers = Self::of(proxy);
            numbers.sum("exchanges_total{") == ended && numbers.sum("exchanges_in_flight{") == 0
        });
        numbers
    }

    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        let value = self.series.get(series);
        *value.unwrap_or_else(|| panic!("no {series} in:\n{}", self.text))
    }

    /// All series whose names begin so, together.
    #[track_caller]
    pub fn sum(&self, begin: &str) -> u64 {
        let alike = self
            .series
            .iter()
            .filter(|(name, _)| name.starts_with(begin));
        let mut values = alike.map(|(_, value)| *value).peekable();
        assert!(values.peek().is_some(), "no {begin} in:\n{}", self.text);
        values.sum::<f64>() as u64
    }

    pub fn series(&self) -> &BTreeMap<String, f64> {
        &self.series
    }

    /// Those that only grow: counters, and of histograms the buckets, counts and sums. Not those that
    /// every process has.
    pub fn growing(&self) -> impl Iterator<Item = (&str, f64)> {
        let series = self.series.iter().map(|(name, value)| (&**name, *value));
        series.filter(|(name, _)| {
            let name = name.split('{').next().unwrap();
            let ends = ["_total", "_bucket", "_count", "_sum"];
            !name.starts_with("process_") && ends.iter().any(|end| name.ends_with(end))
        })
    }

    /// What has been counted is this, and nothing else: counters and the counts of histograms, bytes
    /// apart.
    #[track_caller]
    pub fn are(&self, expected: &[(&str, u64)]) {
        let counted = |name: &str| {
            let name = name.split('{').next().unwrap();
            !name.ends_with("_bucket") && !name.ends_with("_sum") && !name.ends_with("bytes_total")
        };
        let seen = self.growing().filter(|(_, value)| *value != 0.0);
        let seen: BTreeMap<_, _> = seen
            .filter(|(name, _)| counted(name))
            .map(|(name, value)| (name, value as u64))
            .collect();
        assert_eq!(seen, expected.iter().copied().collect());
    }
}
