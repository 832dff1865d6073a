//! What the proxy needs before it does anything, and what a second worker costs.
use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::{
    stage::{Stage, first_response},
    works,
};
use crate::{peers::Peer, report::Figure, results::Footprint};

/// After the first response, for what is still to be set up or freed.
const SETTLE: Duration = Duration::from_millis(300);

/// Starts `proxy` `repeats` times, and as often with one and with two workers under load.
pub fn measure(stage: &Stage, proxy: &Peer, repeats: usize) -> Result<Footprint, String> {
    let mut first_response_ms = Vec::new();
    let mut idle_rss_mib = Vec::new();
    for _ in 0..repeats {
        let begun = Instant::now();
        let (running, listen) = stage.start(proxy, false, &[stage.core])?;
        first_response(listen).map_err(|error| format!("no first response: {error}"))?;
        first_response_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        thread::sleep(SETTLE);
        idle_rss_mib.push(running.rss_kib() as f64 / 1024.0);
    }
    Ok(Footprint {
        first_response_ms: median(first_response_ms),
        idle_rss_mib: median(idle_rss_mib),
        stripped_binary_mib: stripped_binary_mib(stage, proxy)?,
        two_workers_cpu_ratio: two_workers_cpu_ratio(stage, proxy, repeats)?,
        // Load and origin share a core, which two workers would wait for.
        two_workers_rate_ratio: None,
    })
}

fn stripped_binary_mib(stage: &Stage, proxy: &Peer) -> Result<f64, String> {
    let stripped = stage.scratch().join("stripped");
    let strip = Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(&proxy.program)
        .status();
    if !strip.is_ok_and(|status| status.success()) {
        return Err("strip, which comes with the C compiler, does not run".into());
    }
    let size = fs::metadata(&stripped)
        .map_err(|error| error.to_string())?
        .len();
    Ok(size as f64 / f64::from(1 << 20))
}

/// CPU per request with two workers over that with one, on as many cores; `None` where there is one.
fn two_workers_cpu_ratio(
    stage: &Stage,
    proxy: &Peer,
    repeats: usize,
) -> Result<Option<f64>, String> {
    if stage.core == stage.load_core {
        return Ok(None);
    }
    let plans = works::all(false);
    let plan = plans
        .first()
        .expect("the first kind of work is small requests flat out");
    let mut ratios = Vec::new();
    for round in 0..repeats {
        let one = stage.measure(Some(proxy), plan, round, &[stage.core])?;
        let two = stage.measure(Some(proxy), plan, round, &[stage.core, stage.load_core])?;
        ratios.extend(
            two.sample
                .cpu
                .zip(one.sample.cpu)
                .map(|(two, one)| two / one),
        );
    }
    Ok(Figure::of(ratios).map(|ratio| ratio.median))
}

fn median(values: Vec<f64>) -> f64 {
    Figure::of(values).map_or(f64::NAN, |figure| figure.median)
}
