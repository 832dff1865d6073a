//! Plots as SVG: what is black in them takes the colour of the text around them.
use std::io;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::stats::{self, FLOORS, Figure, OURS};
use super::tables::{escape, limit_words, measure_words, number, unit_of};
use crate::results::{Bar, Contestant, Measure, Rescue, Results, Work};

pub(super) const INK: RGBColor = BLACK;
/// Legible on white and on black, as all the others.
pub(super) const BLUE: RGBColor = RGBColor(0x2f, 0x81, 0xf7);
pub(super) const GREY: RGBColor = RGBColor(0x8b, 0x94, 0x9e);
const GREEN: RGBColor = RGBColor(0x3f, 0xa3, 0x66);
const AMBER: RGBColor = RGBColor(0xd9, 0x82, 0x2b);
const RED: RGBColor = RGBColor(0xe5, 0x48, 0x4d);
const PURPLE: RGBColor = RGBColor(0x8e, 0x5b, 0xd0);

/// Of a panel, in pixels, as all that follow.
const WIDTH: i32 = 400;
/// Names stand left of this, marks between this and `RIGHT`, figures right of that.
const LEFT: i32 = 98;
const RIGHT: i32 = 284;
const LINE: i32 = 16;
const ROW: i32 = 22;
/// A bar so many times as long as ours, the best peer's and the limit ends in an arrow.
const LONGEST: f64 = 2.5;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Drawn = Result<(), DrawingAreaErrorKind<io::Error>>;

/// One plot: a row for each contestant along a common axis.
pub struct Panel {
    title: String,
    caption: String,
    /// What stands in place of a caption where colours have meanings.
    legend: Vec<(&'static str, RGBColor)>,
    scale: Scale,
    /// The largest first.
    limits: Vec<(f64, String)>,
    rows: Vec<Row>,
}

enum Scale {
    Linear {
        max: f64,
        unit: &'static str,
    },
    /// Powers of ten.
    Logarithmic {
        min: f64,
        max: f64,
    },
}

struct Row {
    name: String,
    marks: Vec<Mark>,
    figure: String,
}

/// From, to, half the height, colour; a disc where it goes from a place to itself.
type Mark = (f64, f64, i32, RGBAColor);

/// CPU per unit, the best peer's being 1. `None` where no peer took part.
pub fn cpu(results: &Results, work: &Work) -> Option<Panel> {
    let names = results.contestants.iter().map(|one| one.name.as_str());
    let peers = names.filter(|name| *name != OURS && !FLOORS.contains(name));
    let (best, one) = stats::best(work, peers, |sample| sample.cpu)?;
    let panel = bars(results, work, Measure::Cpu, one)?;
    let caption = format!("{}, {best} = 1", panel.caption);
    Some(Panel { caption, ..panel })
}

/// Resident memory per stream.
pub fn memory(results: &Results, work: &Work) -> Option<Panel> {
    let panel = bars(results, work, Measure::StreamMemory, 1.0)?;
    let caption = format!("{}, KiB", panel.caption);
    Some(Panel { caption, ..panel })
}

/// Bars with their spread, in units of `one`, and the limits on this measure.
fn bars(results: &Results, work: &Work, measure: Measure, one: f64) -> Option<Panel> {
    let value = |sample: &_| stats::value(sample, measure);
    let limit = |bar: &Bar| {
        let best = stats::best(work, bar.against.iter().map(String::as_str), value);
        let (name, theirs) = match best {
            None if bar.against.is_empty() => ("", one),
            best => best?,
        };
        Some((bar.ratio * theirs / one, limit_words(work, bar, name)))
    };
    let limits = work.bars.iter().filter(|bar| bar.measure == measure);
    let mut limits: Vec<_> = limits.filter_map(limit).collect();
    limits.sort_by(|a, b| b.0.total_cmp(&a.0));
    let ours = stats::figure(work, OURS, value).map(|ours| ours.median / one);
    let near = limits.iter().map(|(at, _)| *at).chain(ours);
    let arrows_from = LONGEST * near.fold(1.0, f64::max);

    let unit = unit_of(work, measure);
    let mut longest = 0.0_f64;
    let row = |contestant: &Contestant| {
        let name = contestant.name.clone();
        let Figure { median, low, high } = stats::figure(work, &name, value)?;
        longest = longest.max(high / one);
        let bar = (0.0, median / one, 7, colour_of(&name));
        let spread = (low / one, high / one, 1, INK.mix(0.6));
        let mut figure = format!("{} {unit}", number(median));
        if measure == Measure::Cpu {
            figure = format!("{:.2} · {figure}", median / one);
        }
        let marks = vec![bar, spread];
        Some(Row {
            name,
            marks,
            figure,
        })
    };
    let rows: Vec<Row> = results.contestants.iter().filter_map(row).collect();
    let max = limits
        .iter()
        .map(|(at, _)| *at)
        .fold(longest, f64::max)
        .min(arrows_from);
    (!rows.is_empty() && max > 0.0).then(|| Panel {
        title: work.title.clone(),
        caption: measure_words(work, measure),
        legend: Vec::new(),
        scale: Scale::Linear { max, unit: "" },
        limits,
        rows,
    })
}

/// Latency percentiles on a logarithmic axis.
pub fn latency(results: &Results, work: &Work) -> Option<Panel> {
    let (mut min, mut max) = (f64::INFINITY, 0.0_f64);
    let row = |contestant: &Contestant| {
        let name = contestant.name.clone();
        let p50 = stats::figure(work, &name, |sample| Some(sample.latency?.p50))?.median;
        let p99 = stats::figure(work, &name, |sample| Some(sample.latency?.p99))?.median;
        let p999 = stats::figure(work, &name, |sample| Some(sample.latency?.p999))?.median;
        (min, max) = (min.min(p50), max.max(p999));
        let colour = colour_of(&name);
        let line = (p50, p999, 1, colour);
        let marks = vec![line, (p50, p50, 3, colour), (p99, p99, 5, colour)];
        let (unit, micros) = if p99 < 1e4 { ("µs", 1.0) } else { ("ms", 1e3) };
        let figure = format!("{} / {} {unit}", number(p50 / micros), number(p99 / micros));
        Some(Row {
            name,
            marks,
            figure,
        })
    };
    let rows: Vec<Row> = results.contestants.iter().filter_map(row).collect();
    let min = 10_f64.powf(min.log10().floor());
    let max = 10_f64.powf(max.log10().ceil()).max(10.0 * min);
    (!rows.is_empty() && min > 0.0).then(|| Panel {
        title: work.title.clone(),
        caption: "latency: p50 (small dot), p99 (large dot), up to p99.9".to_owned(),
        legend: Vec::new(),
        scale: Scale::Logarithmic { min, max },
        limits: Vec::new(),
        rows,
    })
}

/// What became of the requests of the rescue scenario.
pub fn rescue(results: &Results) -> Option<Panel> {
    const ENDS: [(&str, RGBColor); 5] = [
        ("answered", GREY),
        ("rescued", GREEN),
        ("failed cleanly", AMBER),
        ("wrong", RED),
        ("hung", PURPLE),
    ];
    let row = |rescue: &Rescue| {
        let share = |count: u64| 100.0 * count as f64 / rescue.requests.max(1) as f64;
        let counts = [
            rescue.answered,
            rescue.rescued,
            rescue.failed_cleanly,
            rescue.wrong,
            rescue.hung,
        ];
        let mut before = 0;
        let marks = counts.into_iter().zip(ENDS).map(|(count, (_, colour))| {
            let from = share(before);
            before += count;
            (from, share(before), 7, colour.to_rgba())
        });
        // Few wrong ones leave no visible mark.
        let wrong = match rescue.wrong {
            0 => " right".to_owned(),
            wrong => format!(", {wrong} wrong"),
        };
        let right = share(rescue.answered + rescue.rescued);
        Row {
            name: rescue.contestant.clone(),
            marks: marks.filter(|(from, to, ..)| from < to).collect(),
            figure: format!("{right:.1} %{wrong}"),
        }
    };
    let (max, unit) = (100.0, " %");
    (!results.rescue.is_empty()).then(|| Panel {
        title: "What became of the requests".to_owned(),
        caption: String::new(),
        legend: ENDS.to_vec(),
        scale: Scale::Linear { max, unit },
        limits: Vec::new(),
        rows: results.rescue.iter().map(row).collect(),
    })
}

fn colour_of(contestant: &str) -> RGBAColor {
    match contestant {
        OURS => BLUE.to_rgba(),
        floor if FLOORS.contains(&floor) => GREY.mix(0.5),
        _ => GREY.to_rgba(),
    }
}

/// One panel for a page that has its own headings: transparent, and as dark or light as the text there.
pub fn inline(panel: &Panel) -> String {
    let height = panel.height() - LINE;
    let svg = svg((WIDTH, height), |root| panel.draw(root, false));
    let label = escape(&format!("{} {}", panel.title, panel.caption));
    let opening = format!("<svg role=\"img\" aria-label=\"{label}\" ");
    svg.replacen("<svg ", &opening, 1)
}

/// Panels in two columns on white, as a file of its own.
pub fn sheet(panels: &[Panel]) -> String {
    const GAP: i32 = 20;
    let step = WIDTH + GAP;
    let lines = panels.chunks(2);
    let tallest = |line: &[Panel]| line.iter().map(Panel::height).max().unwrap_or(0) + GAP;
    let height = GAP + lines.clone().map(tallest).sum::<i32>();
    let width = GAP + step * panels.len().min(2) as i32;
    let svg = svg((width, height), |root| {
        root.fill(&WHITE)?;
        let mut y = GAP;
        for line in lines {
            for (panel, x) in line.iter().zip([GAP, GAP + step]) {
                let size = (WIDTH as u32, panel.height() as u32);
                panel.draw(&root.clone().shrink((x, y), size), true)?;
            }
            y += tallest(line);
        }
        Ok(())
    });
    svg.replacen("<svg ", "<svg color=\"#1f2328\" ", 1)
}

pub(super) fn svg((width, height): (i32, i32), draw: impl FnOnce(&Area) -> Drawn) -> String {
    let mut text = String::new();
    let size = (width as u32, height as u32);
    let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
    draw(&root)
        .and_then(|()| root.present())
        .expect("a String takes every shape");
    drop(root);
    text.replace("\"#000000\"", "\"currentColor\"")
}

impl Panel {
    /// With its title.
    fn height(&self) -> i32 {
        LINE * (3 + self.limits.len() as i32) + ROW * self.rows.len() as i32 + 6
    }

    fn draw(&self, area: &Area, titled: bool) -> Drawn {
        let mut y = LINE / 2;
        if titled {
            text(area, &self.title, (0, y), HPos::Left, Ink::Bold)?;
            y += LINE;
        }
        text(area, &self.caption, (0, y), HPos::Left, Ink::Faint)?;
        let mut x = 0;
        for (words, colour) in &self.legend {
            let patch = [(x, y - 5), (x + 10, y + 5)];
            area.draw(&Rectangle::new(patch, colour.filled()))?;
            text(area, words, (x + 14, y), HPos::Left, Ink::Faint)?;
            x += 34 + 6 * words.len() as i32;
        }
        y += LINE;
        let top = y - LINE / 2 + LINE * self.limits.len() as i32;
        let bottom = top + ROW * self.rows.len() as i32;
        for (at, words) in self.scale.ticks() {
            let x = self.x(at);
            line(area, (x, top), (x, bottom + 3), INK.mix(0.15), 1)?;
            let below = (x, bottom + 4 + LINE / 2);
            text(area, &words, below, HPos::Center, Ink::Faint)?;
        }
        for (row, middle) in self
            .rows
            .iter()
            .zip((top + ROW / 2..).step_by(ROW as usize))
        {
            let ours = row.name == OURS;
            let ink = if ours { Ink::Bold } else { Ink::Plain };
            text(area, &row.name, (LEFT - 8, middle), HPos::Right, ink)?;
            text(area, &row.figure, (WIDTH - 2, middle), HPos::Right, ink)?;
            for mark in &row.marks {
                self.draw_mark(area, *mark, middle)?;
            }
        }
        for (lane, (limit, words)) in self.limits.iter().enumerate() {
            let (x, y) = (self.x(*limit), y + LINE * lane as i32);
            line(area, (x, y - 6), (x, bottom), AMBER.to_rgba(), 2)?;
            // The lines of larger limits pass on the right, and long words need the longer side.
            let (x, side) = if lane > 0 || x > (LEFT + RIGHT) / 2 {
                (x - 5, HPos::Right)
            } else {
                (x + 5, HPos::Left)
            };
            text(area, words, (x, y), side, Ink::Faint)?;
        }
        Ok(())
    }

    fn draw_mark(&self, area: &Area, (from, to, half, colour): Mark, y: i32) -> Drawn {
        let (left, right) = (self.x(from), self.x(to));
        if from == to {
            return area.draw(&Circle::new((left, y), half, colour.filled()));
        }
        let corners = [(left, y - half), (right, y + half)];
        area.draw(&Rectangle::new(corners, colour.filled()))?;
        let (Scale::Linear { max, .. } | Scale::Logarithmic { max, .. }) = self.scale;
        if to <= max * 1.001 {
            return Ok(());
        }
        let edge = right + 2;
        let arrow = vec![(edge, y - half), (edge, y + half), (edge + half, y)];
        area.draw(&Polygon::new(arrow, colour.filled()))
    }

    fn x(&self, value: f64) -> i32 {
        let share = match self.scale {
            Scale::Linear { max, .. } => value / max,
            Scale::Logarithmic { min, max } => (value / min).ln() / (max / min).ln(),
        };
        LEFT + (share.clamp(0.0, 1.0) * f64::from(RIGHT - LEFT)).round() as i32
    }
}

impl Scale {
    fn ticks(&self) -> Vec<(f64, String)> {
        match *self {
            Self::Linear { max, unit } => {
                let ten = 10_f64.powf(max.log10().floor());
                let steps = [0.25, 0.5, 1.0, 2.5].map(|step| step * ten);
                let step = steps
                    .into_iter()
                    .find(|step| max / step <= 4.5)
                    .unwrap_or(max);
                let ticks = (0..=4).map(|tick| f64::from(tick) * step);
                let ticks = ticks.filter(|at| *at <= max * 1.001);
                ticks.map(|at| (at, format!("{at}{unit}"))).collect()
            }
            Self::Logarithmic { min, max } => {
                let words = |at: f64| match at.log10().round() {
                    6.0.. => format!("{:.0} s", at / 1e6),
                    3.0.. => format!("{:.0} ms", at / 1e3),
                    0.0.. => format!("{at:.0} µs"),
                    _ => format!("{at} µs"),
                };
                let tens = (max / min).log10().round() as i32;
                let ticks = (0..=tens).map(|ten| min * 10_f64.powi(ten));
                ticks.map(|at| (at, words(at))).collect()
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Ink {
    Plain,
    Bold,
    Faint,
}

pub(super) fn line(
    area: &Area,
    from: (i32, i32),
    to: (i32, i32),
    colour: RGBAColor,
    width: u32,
) -> Drawn {
    area.draw(&PathElement::new([from, to], colour.stroke_width(width)))
}

pub(super) fn text(area: &Area, words: &str, at: (i32, i32), side: HPos, ink: Ink) -> Drawn {
    let (size, style, shade) = match ink {
        Ink::Plain => (15, FontStyle::Normal, 1.0),
        Ink::Bold => (15, FontStyle::Bold, 1.0),
        Ink::Faint => (13, FontStyle::Normal, 0.7),
    };
    let colour = INK.mix(shade);
    let font = ("sans-serif", size, style).into_font().color(&colour);
    let style = font.pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(words, at, style))
}
