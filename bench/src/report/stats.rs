//! What many rounds of samples say: medians, spreads, ratios, and whether a bar is reached.
use crate::results::{Bar, Measure, Sample, Work};

/// The contestant that the bars are for.
pub const OURS: &str = "proxy";
/// No proxies: what moving the bytes costs at the least.
pub const FLOORS: [&str; 2] = ["relay", "direct"];
/// From so many rounds on the spread is the interquartile range; with fewer it is all there is.
pub const QUARTILES_FROM: usize = 5;

/// A median over rounds and the spread around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Figure {
    /// `None` where there is no finite value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let few = sorted.len() < QUARTILES_FROM;
        let edge = if few { 0.0 } else { 0.25 };
        Some(Self {
            median: quantile(&sorted, 0.5)?,
            low: quantile(&sorted, edge)?,
            high: quantile(&sorted, 1.0 - edge)?,
        })
    }
}

/// Between two values it lies in proportion to their distance.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (
        sorted[place.floor() as usize],
        sorted[place.ceil() as usize],
    );
    Some(below + (above - below) * place.fract())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// With the whole spread.
    Reached,
    /// With the whole spread.
    Missed,
    /// The bar lies inside the spread, so the rounds do not tell.
    WithinSpread,
    /// A contestant that the bar needs did not take part.
    NotMeasured,
}

impl Verdict {
    pub fn words(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Missed => "missed",
            Self::WithinSpread => "within the spread",
            Self::NotMeasured => "not measured",
        }
    }
}

/// A bar and how near the proxy came.
#[derive(Debug)]
pub struct Judged {
    pub ours: f64,
    /// The best contestant of those the bar is against, and its median.
    pub best: Option<(String, f64)>,
    /// Ratio of the medians, spread of the ratios round by round; of an absolute bar the values themselves.
    pub reached: Figure,
    pub verdict: Verdict,
}

/// `None` where one side has no samples.
pub fn judge(work: &Work, bar: &Bar) -> Option<Judged> {
    let value = |sample: &Sample| value(sample, bar.measure);
    let ours = rounds(work, OURS, value);
    let absolute = Figure::of(ours.iter().map(|(_, value)| *value))?;
    if bar.against.is_empty() {
        return Some(Judged {
            ours: absolute.median,
            best: None,
            reached: absolute,
            verdict: verdict(absolute, bar.ratio),
        });
    }
    let (name, median) = best(work, bar.against.iter().map(String::as_str), value)?;
    let theirs = rounds(work, name, value);
    let ratios = ours.iter().filter_map(|(round, ours)| {
        let (_, theirs) = theirs.iter().find(|(other, _)| other == round)?;
        Some(ours / theirs)
    });
    let (median_ratio, spread) = (absolute.median / median, Figure::of(ratios)?);
    let reached = Figure {
        median: median_ratio,
        // The ratio of the medians may lie outside the spread of the ratios.
        low: spread.low.min(median_ratio),
        high: spread.high.max(median_ratio),
    };
    Some(Judged {
        ours: absolute.median,
        best: Some((name.to_owned(), median)),
        reached,
        verdict: verdict(reached, bar.ratio),
    })
}

/// Only the whole spread decides.
pub fn verdict(reached: Figure, limit: f64) -> Verdict {
    if reached.high <= limit {
        Verdict::Reached
    } else if reached.low > limit {
        Verdict::Missed
    } else {
        Verdict::WithinSpread
    }
}

pub fn value(sample: &Sample, measure: Measure) -> Option<f64> {
    match measure {
        Measure::Cpu => sample.cpu,
        Measure::P50 => sample.latency.map(|latency| latency.p50),
        Measure::P99 => sample.latency.map(|latency| latency.p99),
        Measure::StreamMemory => sample.stream_kib,
    }
}

/// Over all rounds of one contestant.
pub fn figure(
    work: &Work,
    contestant: &str,
    value: impl Fn(&Sample) -> Option<f64>,
) -> Option<Figure> {
    Figure::of(
        rounds(work, contestant, value)
            .into_iter()
            .map(|(_, value)| value),
    )
}

/// The contestant with the lowest median, and that median.
pub fn best<'a>(
    work: &Work,
    names: impl IntoIterator<Item = &'a str>,
    value: impl Fn(&Sample) -> Option<f64>,
) -> Option<(&'a str, f64)> {
    names
        .into_iter()
        .filter_map(|name| Some((name, figure(work, name, &value)?.median)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

fn rounds(
    work: &Work,
    contestant: &str,
    value: impl Fn(&Sample) -> Option<f64>,
) -> Vec<(usize, f64)> {
    let samples = work.samples.iter();
    samples
        .filter(|sample| sample.contestant == contestant)
        .filter_map(|sample| Some((sample.round, value(sample)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(samples: &[(&str, usize, f64)]) -> Work {
        let sample = |&(contestant, round, cpu): &(&str, usize, f64)| Sample {
            contestant: contestant.to_owned(),
            round,
            cpu: Some(cpu),
            rate: 1.0,
            latency: None,
            stream_kib: None,
            wrong: 0,
            errors: 0,
        };
        Work {
            id: String::new(),
            title: String::new(),
            unit: "request".to_owned(),
            samples: samples.iter().map(sample).collect(),
            bars: Vec::new(),
        }
    }

    fn bar(against: &[&str], ratio: f64) -> Bar {
        Bar {
            measure: Measure::Cpu,
            against: against.iter().map(|name| (*name).to_owned()).collect(),
            ratio,
        }
    }

    #[test]
    fn few_rounds_spread_to_their_extremes_and_many_to_their_quartiles() {
        let few = Figure::of([3.0, 1.0, 8.0, f64::NAN]).unwrap();
        assert_eq!((few.low, few.median, few.high), (1.0, 3.0, 8.0));
        let many = Figure::of([5.0, 1.0, 2.0, 3.0, 99.0]).unwrap();
        assert_eq!((many.low, many.median, many.high), (2.0, 3.0, 5.0));
        assert_eq!(Figure::of([1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Figure::of([]), None);
    }

    #[test]
    fn ratios_pair_the_rounds() {
        // The machine was twice as slow in round 1, for both.
        let work = work(&[
            ("nginx", 0, 20.0),
            ("proxy", 0, 14.0),
            ("proxy", 1, 28.0),
            ("nginx", 1, 40.0),
            ("haproxy", 0, 90.0),
            ("nginx", 2, 20.0),
        ]);
        let judged = judge(&work, &bar(&["haproxy", "nginx", "caddy"], 0.75)).unwrap();
        assert_eq!(judged.best, Some(("nginx".to_owned(), 20.0)));
        assert_eq!(judged.reached.low, 0.7);
        assert_eq!(judged.reached.median, 21.0 / 20.0);
    }

    #[test]
    fn a_bar_inside_the_spread_is_neither_reached_nor_missed() {
        let work = work(&[
            ("proxy", 0, 7.0),
            ("proxy", 1, 8.0),
            ("nginx", 0, 10.0),
            ("nginx", 1, 10.0),
        ]);
        let verdict = |ratio| judge(&work, &bar(&["nginx"], ratio)).unwrap().verdict;
        assert_eq!(verdict(0.8), Verdict::Reached);
        assert_eq!(verdict(0.75), Verdict::WithinSpread);
        assert_eq!(verdict(0.7), Verdict::WithinSpread);
        assert_eq!(verdict(0.69), Verdict::Missed);
    }

    #[test]
    fn a_bar_against_nobody_is_absolute_and_one_against_the_absent_is_open() {
        let work = work(&[("proxy", 0, 3.0)]);
        let judged = judge(&work, &bar(&[], 4.0)).unwrap();
        assert_eq!(judged.verdict, Verdict::Reached);
        assert_eq!(judged.reached.median, 3.0);
        assert!(judge(&work, &bar(&["nginx"], 4.0)).is_none());
    }
}
