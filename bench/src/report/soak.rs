//! What a soak found: what became of each kind of request, and what the process held over time.
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::plots::{Area, BLUE, Drawn, GREY, INK, Ink, line, svg, text as write};
use super::tables::Table;
use crate::results::{Soak, SoakKind, SoakSample};

const WIDTH: i32 = 720;
/// Figures of an axis stand left of this.
const LEFT: i32 = 70;
const RIGHT: i32 = WIDTH - 20;
const PLOT: i32 = 110;
const TITLE: i32 = 26;

pub fn text(soak: &Soak) -> String {
    let mut text = format!("{}\n\n{}\n", taken(soak), table(soak).text());
    text += &held(soak).text();
    for example in &soak.examples {
        text += &format!("  {example}\n");
    }
    text + "\n" + &verdict(soak) + "\n"
}

pub fn markdown(soak: &Soak) -> String {
    let (taken, verdict) = (taken(soak), verdict(soak));
    let (table, held) = (table(soak).markdown(), held(soak).markdown());
    format!("{taken}.\n\n**{verdict}**\n\n{held}\n{table}")
}

fn taken(soak: &Soak) -> String {
    let Soak {
        machine,
        contestant,
        commit,
        ..
    } = soak;
    format!(
        "{} {} for {:.1} minutes, {} clients, {} workers; {}, {} cores, Linux {}; commit {commit}; {} UTC",
        contestant.name,
        contestant.version,
        soak.seconds / 60.0,
        soak.clients,
        soak.workers,
        machine.cpu,
        machine.cores,
        machine.kernel,
        soak.started
    )
}

fn verdict(soak: &Soak) -> String {
    match soak.faults.is_empty() {
        true => "Flat, and no request broke the promise.".to_owned(),
        false => soak.faults.join("; "),
    }
}

fn table(soak: &Soak) -> Table {
    let row = |kind: &SoakKind| {
        let counts = [kind.requests, kind.again, kind.missed, kind.broken];
        let counts = counts.iter().map(u64::to_string);
        [kind.name.clone()].into_iter().chain(counts).collect()
    };
    let sum = |count: fn(&SoakKind) -> u64| soak.kinds.iter().map(count).sum();
    let all = SoakKind {
        name: "all".to_owned(),
        requests: sum(|kind| kind.requests),
        again: sum(|kind| kind.again),
        missed: sum(|kind| kind.missed),
        broken: sum(|kind| kind.broken),
    };
    let head = "requests, sent, sent again, missed, promise broken";
    Table::new(
        "Requests",
        1,
        head,
        soak.kinds.iter().chain([&all]).map(row),
    )
}

/// Before, in each third, after.
fn held(soak: &Soak) -> Table {
    let third = soak.samples.len().div_ceil(3).max(1);
    let mut rows = vec![row("idle, before", &[soak.idle])];
    for (samples, name) in soak
        .samples
        .chunks(third)
        .zip(["first third", "second", "last"])
    {
        let held: Vec<_> = samples.iter().map(|sample| sample.held).collect();
        rows.push(row(name, &held));
    }
    rows.push(row("idle, after", &[soak.after]));
    let head = "median, RSS MiB, descriptors, threads, ring workers";
    Table::new("Held", 1, head, rows.into_iter())
}

fn row(name: &str, held: &[crate::process::Holdings]) -> Vec<String> {
    let median = |read: fn(&crate::process::Holdings) -> u64| {
        let mut all: Vec<u64> = held.iter().map(read).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    vec![
        name.to_owned(),
        format!("{:.1}", median(|held| held.rss_kib) as f64 / 1024.0),
        median(|held| held.descriptors).to_string(),
        median(|held| held.threads).to_string(),
        median(|held| held.io_workers).to_string(),
    ]
}

/// Everything that was sampled, over time, as an SVG file.
pub fn plot(soak: &Soak) -> String {
    type Read = fn(&SoakSample) -> f64;
    let sampled: [(&str, Read); 3] = [
        ("MiB resident", |sample| sample.held.rss_kib as f64 / 1024.0),
        ("descriptors", |sample| sample.held.descriptors as f64),
        ("threads, those of the ring included", |sample| {
            sample.held.threads as f64
        }),
    ];
    let pairs = soak.samples.windows(2);
    let rate = pairs.map(|pair| {
        let requests = pair[1].requests - pair[0].requests;
        (
            pair[1].second,
            requests as f64 / (pair[1].second - pair[0].second),
        )
    });
    let mut curves = vec![("requests/s", rate.collect::<Vec<_>>())];
    for (name, read) in sampled {
        let points = soak
            .samples
            .iter()
            .map(|sample| (sample.second, read(sample)));
        curves.push((name, points.collect()));
    }
    let height = (TITLE + PLOT) * curves.len() as i32 + TITLE;
    let svg = svg((WIDTH, height), |root| {
        root.fill(&WHITE)?;
        for (place, (name, points)) in curves.iter().enumerate() {
            let top = place as i32 * (TITLE + PLOT) + TITLE;
            curve(root, top, name, points, soak.seconds)?;
        }
        for tenth in (0..=10).step_by(2) {
            let second = soak.seconds * f64::from(tenth) / 10.0;
            let words = format!("{:.1} min", second / 60.0);
            let x = LEFT + (RIGHT - LEFT) * tenth / 10;
            write(
                root,
                &words,
                (x, height - TITLE / 2),
                HPos::Center,
                Ink::Faint,
            )?;
        }
        Ok(())
    });
    svg.replacen("<svg ", "<svg color=\"#1f2328\" ", 1)
}

fn curve(area: &Area, top: i32, name: &str, points: &[(f64, f64)], seconds: f64) -> Drawn {
    write(area, name, (LEFT, top - TITLE / 2), HPos::Left, Ink::Bold)?;
    let highest = points.iter().map(|point| point.1).fold(1.0, f64::max) * 1.1;
    let y = |value: f64| top + PLOT - (value / highest * f64::from(PLOT)).round() as i32;
    let x = |second: f64| LEFT + (second / seconds * f64::from(RIGHT - LEFT)).round() as i32;
    for value in [0.0, highest / 2.0, highest] {
        line(area, (LEFT, y(value)), (RIGHT, y(value)), INK.mix(0.15), 1)?;
        let words = format!("{value:.0}");
        write(area, &words, (LEFT - 8, y(value)), HPos::Right, Ink::Faint)?;
    }
    line(area, (LEFT, top), (LEFT, top + PLOT), GREY.to_rgba(), 1)?;
    let way: Vec<(i32, i32)> = points
        .iter()
        .map(|point| (x(point.0), y(point.1)))
        .collect();
    area.draw(&PathElement::new(way, BLUE.stroke_width(2)))
}
