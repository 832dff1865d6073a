//! What a person reads of a comparison: findings, notes and tables, as text, Markdown and HTML.
use super::stats::{self, Figure, OURS, QUARTILES_FROM, Verdict};
use crate::results::{Bar, Footprint, Measure, Rescue, Results, Sample, Work};

/// What the proxy must stay within before it does anything.
const FIRST_RESPONSE_MS_MAX: f64 = 30.0;
const IDLE_MIB_MAX: f64 = 8.0;
const BINARY_MIB_MAX: f64 = 6.0;
/// Two workers must serve so many times as much as one, or cost no more CPU a request than this.
const TWO_WORKERS_RATE_MIN: f64 = 1.8;
const TWO_WORKERS_CPU_MAX: f64 = 1.05;

/// Stands where nothing was measured.
const NOTHING: &str = "–";

/// One bar, in words.
pub struct Finding {
    pub work: String,
    pub measure: String,
    limit: String,
    /// The limit where only the best contestant is named, whom it was held against in the end.
    pub against_best: String,
    /// The ratio, or the value where the bar is absolute, with its spread.
    pub reached: String,
    pub verdict: Verdict,
    ours: String,
    /// The best contestant of those that the bar names, and its median.
    best: String,
    /// What was reached over the bar: at most 1 is good.
    pub gauge: Option<Figure>,
}

/// All bars, those of the works first.
pub fn findings(results: &Results) -> Vec<Finding> {
    let works = results.works.iter();
    let of_works = works.flat_map(|work| work.bars.iter().map(|bar| finding(work, bar)));
    let of_footprint = results.footprint.iter().flat_map(footprint_findings);
    of_works.chain(of_footprint).collect()
}

fn finding(work: &Work, bar: &Bar) -> Finding {
    let unit = unit_of(work, bar.measure);
    let amount = |value: f64| format!("{} {unit}", number(value));
    let limit = limit_words(work, bar, &bar.against.join(", "));
    let mut finding = Finding {
        work: work.title.clone(),
        measure: measure_words(work, bar.measure),
        against_best: limit.clone(),
        limit,
        reached: NOTHING.to_owned(),
        verdict: Verdict::NotMeasured,
        ours: NOTHING.to_owned(),
        best: NOTHING.to_owned(),
        gauge: None,
    };
    let Some(judged) = stats::judge(work, bar) else {
        return finding;
    };
    let Figure { median, low, high } = judged.reached;
    finding.reached = if bar.against.is_empty() {
        format!("{} ({}..{})", amount(median), number(low), number(high))
    } else {
        format!("{median:.2} ({low:.2}..{high:.2})")
    };
    finding.verdict = judged.verdict;
    finding.ours = amount(judged.ours);
    if let Some((name, median)) = judged.best {
        finding.against_best = limit_words(work, bar, &name);
        finding.best = format!("{name} {}", amount(median));
    }
    let [median, low, high] = [median, low, high].map(|reached| reached / bar.ratio);
    finding.gauge = Some(Figure { median, low, high });
    finding
}

fn footprint_findings(footprint: &Footprint) -> Vec<Finding> {
    let finding = |measure: &str, limit: String, ours: String, of_limit: f64| {
        let gauge = Figure {
            median: of_limit,
            low: of_limit,
            high: of_limit,
        };
        Finding {
            work: "footprint".to_owned(),
            measure: measure.to_owned(),
            against_best: limit.clone(),
            limit,
            reached: ours.clone(),
            verdict: stats::verdict(gauge, 1.0),
            ours,
            best: NOTHING.to_owned(),
            gauge: Some(gauge),
        }
    };
    let at_most = |measure, value: f64, max: f64, unit| {
        let ours = format!("{} {unit}", number(value));
        finding(measure, format!("≤ {max} {unit}"), ours, value / max)
    };
    let Footprint {
        first_response_ms: first,
        idle_rss_mib: idle,
        stripped_binary_mib: binary,
        two_workers_cpu_ratio: cpu,
        two_workers_rate_ratio: rate,
    } = *footprint;
    let mut findings = vec![
        at_most("first response", first, FIRST_RESPONSE_MS_MAX, "ms"),
        at_most("memory when idle", idle, IDLE_MIB_MAX, "MiB"),
        at_most("stripped binary", binary, BINARY_MIB_MAX, "MiB"),
    ];
    // Either of the two is enough, so the better one counts.
    let rate_of_limit = rate.map(|rate| TWO_WORKERS_RATE_MIN / rate);
    let cpu_of_limit = cpu.map(|cpu| cpu / TWO_WORKERS_CPU_MAX);
    let of_limit = [rate_of_limit, cpu_of_limit].into_iter().flatten();
    if let Some(of_limit) = of_limit.reduce(f64::min) {
        let ratio = |ratio| cell(ratio, |ratio: f64| format!("{ratio:.2} ×"));
        findings.push(finding(
            "rate, or CPU, two workers to one",
            format!("≥ {TWO_WORKERS_RATE_MIN} ×, or ≤ {TWO_WORKERS_CPU_MAX} ×"),
            format!("{}, {}", ratio(rate), ratio(cpu)),
            of_limit,
        ));
    }
    findings
}

pub fn measure_words(work: &Work, measure: Measure) -> String {
    match measure {
        Measure::Cpu => format!("CPU per {}", work.unit),
        Measure::P50 => "p50".to_owned(),
        Measure::P99 => "p99".to_owned(),
        Measure::StreamMemory => "memory per stream".to_owned(),
    }
}

pub fn unit_of(work: &Work, measure: Measure) -> &'static str {
    match measure {
        Measure::Cpu if work.unit == "GB" => "s",
        Measure::Cpu | Measure::P50 | Measure::P99 => "µs",
        Measure::StreamMemory => "KiB",
    }
}

pub fn limit_words(work: &Work, bar: &Bar, against: &str) -> String {
    if bar.against.is_empty() {
        format!("≤ {} {}", bar.ratio, unit_of(work, bar.measure))
    } else {
        format!("≤ {:.2} × {against}", bar.ratio)
    }
}

/// Three significant digits, or all of a whole number.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        _ if value.fract() == 0.0 => 0,
        100.0.. => 0,
        10.0.. => 1,
        0.1.. => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    match text.len() {
        // Thousands of the larger ones stand apart.
        5.. if digits == 0 => {
            let (thousands, rest) = text.split_at(text.len() - 3);
            let (millions, thousands) = thousands.split_at(thousands.len().saturating_sub(3));
            let apart = format!("{millions}\u{202f}{thousands}\u{202f}{rest}");
            apart.trim_start_matches('\u{202f}').to_owned()
        }
        _ => text,
    }
}

fn cell<T>(value: Option<T>, words: impl Fn(T) -> String) -> String {
    value.map_or(NOTHING.to_owned(), words)
}

/// What the figures were taken on.
pub fn taken(results: &Results) -> String {
    let machine = &results.machine;
    format!(
        "{}, {} cores, {} GiB, Linux {}; commit {}; {} UTC; {} rounds",
        machine.cpu,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        results.commit,
        results.started,
        results.rounds
    )
}

pub fn how_to_read(results: &Results) -> String {
    let spread = if results.rounds < QUARTILES_FROM {
        "the lowest and the highest round"
    } else {
        "the middle half of the rounds"
    };
    format!(
        "CPU is that of the whole process tree, one core for each proxy. Medians over rounds that take \
         turns; in brackets {spread}, where ratios pair the contestants of a round. A bar counts as \
         reached or missed where the whole spread says so, against the best of those it names."
    )
}

/// What must not be overlooked.
pub fn notes(results: &Results) -> Vec<String> {
    let mut notes = Vec::new();
    if results.quick {
        notes
            .push("Quick run: it shows that everything works, its figures mean little.".to_owned());
    }
    for work in &results.works {
        for contestant in results
            .contestants
            .iter()
            .map(|contestant| &contestant.name)
        {
            let samples = work.samples.iter();
            let (wrong, errors) = samples
                .filter(|sample| sample.contestant == *contestant)
                .fold((0, 0), |sum, one| (sum.0 + one.wrong, sum.1 + one.errors));
            if wrong + errors > 0 {
                let title = &work.title;
                notes.push(format!(
                    "{contestant}, {title}: {wrong} wrong responses, {errors} errors."
                ));
            }
        }
    }
    for rescue in &results.rescue {
        let (wrong, again) = (rescue.wrong, rescue.replayed_after_answer);
        if wrong + again > 0 {
            let contestant = &rescue.contestant;
            notes.push(format!(
                "{contestant}, rescue: {wrong} wrong responses, {again} requests sent again after the answer had begun."
            ));
        }
    }
    notes
}

/// Cells under a head; the first `words` columns are words, the others numbers.
pub struct Table {
    pub title: String,
    words: usize,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

pub fn summary(results: &Results) -> Table {
    let row = |finding: Finding| {
        vec![
            finding.work,
            finding.measure,
            finding.limit,
            finding.reached,
            finding.verdict.words().to_owned(),
            finding.ours,
            finding.best,
        ]
    };
    let head = "work, measure, bar, reached, verdict, ours, best peer";
    Table::new("Bars", 7, head, findings(results).into_iter().map(row))
}

pub fn work(results: &Results, work: &Work) -> Table {
    let ours = stats::figure(work, OURS, |sample| sample.cpu);
    let row = |name: &str| {
        let cpu = stats::figure(work, name, |sample| sample.cpu);
        let to_ours = cpu.and_then(|cpu| Some(cpu.median / ours?.median));
        let median = |value: fn(&Sample) -> Option<f64>| {
            cell(stats::figure(work, name, value), |figure| {
                number(figure.median)
            })
        };
        vec![
            name.to_owned(),
            median(|sample| sample.cpu),
            cell(cpu, |cpu| {
                format!("{}..{}", number(cpu.low), number(cpu.high))
            }),
            cell(to_ours, |ratio| format!("{ratio:.2}")),
            median(|sample| Some(sample.rate)),
            median(|sample| Some(sample.latency?.p50)),
            median(|sample| Some(sample.latency?.p99)),
            median(|sample| Some(sample.latency?.p999)),
            median(|sample| sample.stream_kib),
        ]
    };
    let (unit, time) = (&work.unit, unit_of(work, Measure::Cpu));
    let head = format!(
        "contestant, CPU {time}/{unit}, spread, to ours, {unit}/s, p50 µs, p99 µs, p99.9 µs, KiB/stream"
    );
    let rows = results
        .contestants
        .iter()
        .map(|contestant| row(&contestant.name));
    let mut table = Table::new(&work.title, 1, &head, rows);
    table.drop_empty();
    table
}

pub(super) fn rescue(rescues: &[Rescue]) -> Table {
    let rows = rescues.iter().map(|rescue| {
        let count = |count: u64| number(count as f64);
        let rescued = |ms| cell((rescue.rescued > 0).then_some(ms), number);
        vec![
            rescue.contestant.clone(),
            count(rescue.requests),
            count(rescue.answered),
            count(rescue.rescued),
            count(rescue.failed_cleanly),
            count(rescue.wrong),
            count(rescue.hung),
            count(rescue.replayed_after_answer),
            format!("{:.2}", rescue.sends as f64 / rescue.requests.max(1) as f64),
            rescued(rescue.rescued_p50_ms),
            rescued(rescue.rescued_p99_ms),
        ]
    });
    let head = "contestant, requests, answered, rescued, failed cleanly, wrong, hung, \
                sent again after answer, sends/request, rescued p50 ms, rescued p99 ms";
    Table::new("Rescue", 1, head, rows)
}

pub fn contestants(results: &Results) -> Table {
    let rows = results.contestants.iter().map(|contestant| {
        let contestant = contestant.clone();
        vec![contestant.name, contestant.version, contestant.note]
    });
    Table::new("Contestants", 3, "contestant, version, note", rows)
}

impl Table {
    pub(super) fn new(
        title: &str,
        words: usize,
        head: &str,
        rows: impl Iterator<Item = Vec<String>>,
    ) -> Self {
        Self {
            title: title.to_owned(),
            words,
            head: head.split(", ").map(str::to_owned).collect(),
            rows: rows.collect(),
        }
    }

    /// Drops columns and then rows with nothing in them.
    fn drop_empty(&mut self) {
        for column in (1..self.head.len()).rev() {
            if self.rows.iter().all(|row| row[column] == NOTHING) {
                self.head.remove(column);
                for row in &mut self.rows {
                    row.remove(column);
                }
            }
        }
        self.rows
            .retain(|row| row[1..].iter().any(|cell| cell != NOTHING));
    }

    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        [&self.head].into_iter().chain(&self.rows)
    }

    pub fn text(&self) -> String {
        let width = |column: usize| self.lines().map(|row| row[column].chars().count()).max();
        let line = |row: &Vec<String>| {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let width = width(column).unwrap_or(0);
                if column < self.words {
                    format!("  {cell:<width$}")
                } else {
                    format!("  {cell:>width$}")
                }
            });
            cells.collect::<String>().trim_end().to_owned() + "\n"
        };
        format!(
            "{}\n{}",
            self.title,
            self.lines().map(line).collect::<String>()
        )
    }

    pub fn markdown(&self) -> String {
        let cell = |cell: &String| format!(" {} |", cell.replace('|', "\\|"));
        let line = |row: &Vec<String>| format!("|{}\n", row.iter().map(cell).collect::<String>());
        let rule = |column| if column < self.words { ":--" } else { "--:" }.to_owned();
        let rules = (0..self.head.len()).map(rule).collect();
        let rows: String = self.rows.iter().map(line).collect();
        line(&self.head) + &line(&rules) + &rows
    }

    pub fn html(&self) -> String {
        let row = |row: &Vec<String>, tag: &str| {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let class = if column < self.words { "" } else { " class=n" };
                format!("<{tag}{class}>{}", escape(cell))
            });
            let class = if row[0] == OURS { " class=ours" } else { "" };
            format!("<tr{class}>{}\n", cells.collect::<String>())
        };
        let rows: String = self.rows.iter().map(|cells| row(cells, "td")).collect();
        let head = row(&self.head, "th");
        format!("<div class=wide><table>\n{head}{rows}</table></div>\n")
    }
}

pub fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_thousands_apart() {
        let shown = [
            0.0, 0.01234, 0.567, 20.04, 40.0, 999.6, 9_999.0, 71_234.5, 1e6,
        ]
        .map(number);
        let apart = "0 0.012 0.57 20.0 40 1000 9999 71_234 1_000_000".replace('_', "\u{202f}");
        assert_eq!(shown.join(" "), apart);
    }
}
