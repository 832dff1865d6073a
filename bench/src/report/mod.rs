//! Shows what a comparison found: on the terminal, as Markdown, as plots and as one HTML page.
#[cfg(test)]
mod fixture;
mod page;
mod plots;
mod siege;
mod soak;
mod stats;
mod tables;

pub use page::html;
pub use siege::{line as siege_line, markdown as siege_markdown, text as siege_text};
pub use soak::{markdown as soak_markdown, plot as soak_plot, text as soak_text};
pub use stats::{Figure, OURS};

use crate::results::{Rescue, Results, Work};
use plots::Panel;
use tables::Table;

pub fn terminal(results: &Results) -> String {
    let mut text = tables::taken(results) + "\n\n";
    for note in tables::notes(results) {
        text += &format!("! {note}\n");
    }
    for table in all_tables(results) {
        text += &table.text();
        text.push('\n');
    }
    text + &tables::how_to_read(results) + "\n"
}

/// The table of the rescue scenario, for the terminal.
pub(crate) fn rescue(rescues: &[Rescue]) -> String {
    tables::rescue(rescues).text()
}

pub fn markdown(results: &Results) -> String {
    let mut text = tables::taken(results) + ".\n\n";
    for note in tables::notes(results) {
        text += &format!("> **{note}**\n\n");
    }
    for table in all_tables(results) {
        text += &format!("### {}\n\n{}\n", table.title, table.markdown());
    }
    text + &tables::how_to_read(results) + "\n"
}

fn all_tables(results: &Results) -> Vec<Table> {
    let mut all = vec![tables::summary(results)];
    all.extend(results.works.iter().map(|work| tables::work(results, work)));
    if !results.rescue.is_empty() {
        all.push(tables::rescue(&results.rescue));
    }
    all.push(tables::contestants(results));
    all
}

/// Names and contents of SVG files, each with all works of one measure.
pub fn plots(results: &Results) -> Vec<(&'static str, String)> {
    let of_works = |plot: fn(&Results, &Work) -> Option<Panel>| -> Vec<Panel> {
        let works = results.works.iter();
        works.filter_map(|work| plot(results, work)).collect()
    };
    let sheets = [
        ("cpu.svg", of_works(plots::cpu)),
        ("latency.svg", of_works(plots::latency)),
        ("memory.svg", of_works(plots::memory)),
        ("rescue.svg", plots::rescue(results).into_iter().collect()),
    ];
    let sheets = sheets.into_iter().filter(|(_, panels)| !panels.is_empty());
    sheets
        .map(|(name, panels)| (name, plots::sheet(&panels)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_is_judged_in_every_form() {
        let results = fixture::results();
        for text in [terminal(&results), markdown(&results), html(&results)] {
            for work in &results.works {
                assert!(text.contains(&tables::escape(&work.title)) || text.contains(&work.title));
            }
            assert!(text.contains("reached") && text.contains("missed"));
            assert!(text.contains("4.31 MiB") && text.contains(&results.commit));
            assert!(!text.contains("Quick run") && !text.contains("NaN"));
        }
    }

    #[test]
    fn a_quick_run_and_wrong_responses_are_not_overlooked() {
        let mut results = fixture::results();
        results.quick = true;
        results.works[0].samples[0].wrong = 7;
        results.rescue[0].replayed_after_answer = 2;
        for text in [terminal(&results), markdown(&results), html(&results)] {
            assert!(text.contains("Quick run"));
            assert!(text.contains("7 wrong responses") && text.contains("2 requests sent again"));
        }
    }

    #[test]
    fn a_run_of_which_nothing_came_still_has_a_report() {
        let mut results = fixture::results();
        for work in &mut results.works {
            work.samples.clear();
        }
        results.rescue.clear();
        results.footprint = None;
        assert!(terminal(&results).contains("not measured"));
        assert!(html(&results).contains("not measured"));
        assert!(plots(&results).is_empty());
    }

    #[test]
    fn the_page_needs_nothing_from_outside() {
        let page = html(&fixture::results()).replace("http://www.w3.org/2000/svg", "");
        for outside in [
            "http:", "https:", "src=", "href=", "url(", "@import", "<script",
        ] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn plots_on_a_page_take_its_colour_and_files_bring_their_own_ground() {
        let results = fixture::results();
        let inline = plots::inline(&plots::rescue(&results).unwrap());
        assert!(inline.contains("currentColor") && !inline.contains("#FFFFFF"));
        for (name, svg) in plots(&results) {
            assert!(
                svg.contains("fill=\"#FFFFFF\"") && svg.contains("color=\"#1f2328\""),
                "{name}"
            );
        }
    }

    #[test]
    #[ignore = "writes the report of made-up results for a person to look at"]
    fn write_to_look_at() {
        let results = fixture::results();
        let dir = std::path::Path::new("target/report");
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("index.html"), html(&results)).unwrap();
        std::fs::write(dir.join("report.md"), markdown(&results)).unwrap();
        for (name, svg) in plots(&results) {
            std::fs::write(dir.join(name), svg).unwrap();
        }
        println!("{}", terminal(&results));
    }
}
