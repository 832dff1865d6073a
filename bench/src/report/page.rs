//! One HTML page that holds all there is to see; it needs nothing from outside itself.
use super::plots;
use super::stats::{Figure, OURS, Verdict};
use super::tables::{self, Finding, escape, number};
use crate::results::{Results, Work};

const STYLE: &str = include_str!("page.css");

pub fn html(results: &Results) -> String {
    let note = |note: &String| format!("<p class=note>{}</p>\n", escape(note));
    let notes: String = tables::notes(results).iter().map(note).collect();
    let findings = tables::findings(results);
    let bars: String = findings
        .chunk_by(|a, b| a.work == b.work)
        .map(bars)
        .collect();
    let article = |work| article(results, work);
    let works: String = results.works.iter().map(article).collect();
    format!(
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <title>codex-reset-proxy, measured</title>\n<style>\n{STYLE}</style>\n\
         <h1>What codex-reset-proxy costs, and what it rescues</h1>\n\
         <p>Side by side with {opponents}, each on one core.</p>\n<p class=faint>{taken}</p>\n\
         {notes}{tiles}\
         <h2>Bars</h2>\n<p class=faint>The upright line is the bar, left of it is good; the band is the spread.</p>\n\
         {bars}{rescue}\
         <h2>Works</h2>\n<div class=works>{works}</div>\n\
         <h2>Contestants</h2>\n{contestants}\n<footer class=faint>{how_to_read}</footer>\n</html>\n",
        opponents = escape(&opponents(results)),
        taken = escape(&tables::taken(results)),
        tiles = tiles(results, &findings),
        rescue = rescue(results),
        contestants = tables::contestants(results).html(),
        how_to_read = escape(&tables::how_to_read(results)),
    )
}

fn opponents(results: &Results) -> String {
    let names = results.contestants.iter().map(|one| one.name.as_str());
    let others: Vec<&str> = names.filter(|name| *name != OURS).collect();
    others.join(", ")
}

/// The verdict in one glance.
fn tiles(results: &Results, findings: &[Finding]) -> String {
    let tile = |class: &str, figure: &str, words: &str| {
        format!("<div class=\"tile {class}\"><b>{figure}</b> {words}</div>\n")
    };
    let count = |verdict| findings.iter().filter(|one| one.verdict == verdict).count();
    let reached = format!("{} of {}", count(Verdict::Reached), findings.len());
    let mut tiles = tile("reached", &reached, "bars reached");
    for verdict in [Verdict::WithinSpread, Verdict::Missed, Verdict::NotMeasured] {
        if count(verdict) > 0 {
            tiles += &tile(
                sign(verdict).0,
                &count(verdict).to_string(),
                verdict.words(),
            );
        }
    }
    let samples = results.works.iter().flat_map(|work| &work.samples);
    let ours = samples.filter(|sample| sample.contestant == OURS);
    let mut wrong: u64 = ours.map(|sample| sample.wrong).sum();
    if let Some(rescue) = results.rescue.iter().find(|one| one.contestant == OURS) {
        wrong += rescue.wrong + rescue.replayed_after_answer;
        let struck = number(rescue.requests.saturating_sub(rescue.answered) as f64);
        let words = format!("of {struck} struck requests rescued");
        tiles += &tile("", &number(rescue.rescued as f64), &words);
    }
    let class = if wrong == 0 { "reached" } else { "missed" };
    tiles += &tile(class, &wrong.to_string(), "wrong or doubled by the proxy");
    format!("<div class=tiles>{tiles}</div>\n")
}

fn sign(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Reached => ("reached", "✓"),
        Verdict::Missed => ("missed", "✗"),
        Verdict::WithinSpread => ("open", "≈"),
        Verdict::NotMeasured => ("open", "?"),
    }
}

/// The bars of one work.
fn bars(findings: &[Finding]) -> String {
    let bar = |finding: &Finding| {
        let (class, sign) = sign(finding.verdict);
        format!(
            "<div class=\"bar {class}\"><span class=sign title=\"{}\">{sign}</span><span>{}</span>\
             {}<b>{}</b><span class=faint>{}</span></div>\n",
            finding.verdict.words(),
            escape(&finding.measure),
            finding.gauge.map_or("<i></i>".to_owned(), gauge),
            escape(&finding.reached),
            escape(&finding.against_best),
        )
    };
    let work = escape(&findings[0].work);
    let bars: String = findings.iter().map(bar).collect();
    format!("<div class=group><span class=work>{work}</span><div>{bars}</div></div>\n")
}

/// From a quarter of the bar to five quarters.
fn gauge(figure: Figure) -> String {
    let x = |value: f64| (value * 150.0 - 37.5).clamp(4.0, 146.0);
    let (low, middle, high) = (x(figure.low), x(figure.median), x(figure.high));
    let band = high - low;
    format!(
        "<svg class=gauge viewBox=\"0 0 150 14\" aria-hidden=true>\
         <rect class=track y=6 width=150 height=2 />\
         <rect class=band x={low:.1} y=3 width={band:.1} height=8 rx=2 />\
         <rect class=limit x=111.5 width=2 height=14 /><circle cx={middle:.1} cy=7 r=4 /></svg>"
    )
}

fn rescue(results: &Results) -> String {
    plots::rescue(results).map_or(String::new(), |panel| {
        format!(
            "<h2>Rescue</h2>\n<p class=faint>The same requests behind each; a share of the attempts \
             hangs, is reset or breaks off.</p>\n<div class=plots>{}</div>{}",
            plots::inline(&panel),
            tables::rescue(&results.rescue).html()
        )
    })
}

fn article(results: &Results, work: &Work) -> String {
    let plots = [plots::cpu, plots::latency, plots::memory];
    let panels = plots.iter().filter_map(|plot| plot(results, work));
    let panels: Vec<String> = panels.map(|panel| plots::inline(&panel)).collect();
    format!(
        "<article class=of{}><h3>{}</h3>\n<div class=plots>{}</div>\n\
         <details><summary>Figures</summary>{}</details></article>\n",
        panels.len(),
        escape(&work.title),
        panels.concat(),
        tables::work(results, work).html()
    )
}
