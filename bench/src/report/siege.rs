//! What a siege found: the bystanders' latencies and what the besieged one held, attack by attack.
use super::tables::Table;
use crate::results::{Assault, Siege};

pub fn text(siege: &Siege) -> String {
    format!("{}\n\n{}", taken(siege), table(siege).text())
}

pub fn markdown(siege: &Siege) -> String {
    format!("{}.\n\n{}", taken(siege), table(siege).markdown())
}

/// One attack, for the progress on the terminal.
pub fn line(one: &Assault) -> String {
    let at = &one.bystanders;
    let (errors, wrong) = (at.errors, at.wrong);
    let mut line = format!(
        "p50 {:.2} p99 {:.2} max {:.1} ms  {} MiB  {}",
        at.p50_ms,
        at.p99_ms,
        at.max_ms,
        over_time(one, |held| held.rss_kib.div_ceil(1024)),
        one.did
    );
    if errors + wrong > 0 {
        line += &format!(
            "  {errors} ERRORS, {wrong} WRONG: {}",
            at.examples.join("; ")
        );
    }
    line
}

fn taken(siege: &Siege) -> String {
    let Siege {
        machine, commit, ..
    } = siege;
    let quick = if siege.quick {
        "Quick run, its figures mean little. "
    } else {
        ""
    };
    format!(
        "{quick}{}, {} cores, Linux {}; commit {commit}; {} UTC; {:.0} s each",
        machine.cpu, machine.cores, machine.kernel, siege.started, siege.seconds
    )
}

fn table(siege: &Siege) -> Table {
    let row = |one: &Assault| {
        let at = &one.bystanders;
        vec![
            one.attack.clone(),
            one.contestant.clone(),
            one.did.clone(),
            format!("{:.2}", at.p50_ms),
            format!("{:.2}", at.p99_ms),
            format!("{:.1}", at.max_ms),
            (at.errors + at.wrong).to_string(),
            over_time(one, |held| held.rss_kib.div_ceil(1024)),
            over_time(one, |held| held.descriptors),
        ]
    };
    let head = "attack, on, done, p50 ms, p99 ms, max ms, failed, RSS MiB, descriptors";
    Table::new("Bystanders", 3, head, siege.assaults.iter().map(row))
}

/// Before, at the peak, after.
fn over_time(one: &Assault, read: fn(&crate::process::Holdings) -> u64) -> String {
    [&one.before, &one.peak, &one.after]
        .map(|held| read(held).to_string())
        .join(" / ")
}
