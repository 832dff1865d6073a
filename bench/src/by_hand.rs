//! The load generator on its own, for work by hand.
use std::{net::SocketAddr, time::Duration};

use crate::load::{self, Window, Work};

const WARM_UP: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the proxy or the origin listens
    target: SocketAddr,
    /// What to ask for: /bytes/N, also with /chunked or /close, or /sse/EVENTS/BYTES/MICROS
    #[arg(default_value = "/bytes/1024")]
    path: String,
    /// Size of each request's body; with 0 it is a GET
    #[arg(long, default_value_t = 1024)]
    body_bytes: usize,
    /// How many at the same time
    #[arg(long, short, default_value_t = 64)]
    connections: usize,
    /// Open a new connection for each request
    #[arg(long)]
    new_connections: bool,
    /// Requests a second, sent in time whatever comes back; by default as fast as they are answered
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// Whether all that came back was right.
pub fn load(options: Options) -> Result<bool, String> {
    let (target, seconds) = (options.target, options.seconds);
    let work = work(options)?;
    let window = Window {
        warm_up: WARM_UP,
        measured: Duration::from_secs(seconds),
    };
    let found = load::run(target, &work, window, &mut |_| ()).map_err(|error| error.to_string())?;
    let units = match work {
        Work::Requests { .. } => "requests",
        Work::Downloads { .. } => "bytes",
        Work::Streams { .. } => "events",
    };
    println!("{:.0} {units}/s", found.units as f64 / found.seconds);
    let quantile_us = |quantile| found.latency.value_at_quantile(quantile) as f64 / 1e3;
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(quantile_us);
    println!("p50 {p50:.0} p99 {p99:.0} p99.9 {p999:.0} us");
    println!("{} wrong, {} errors", found.wrong, found.errors);
    found
        .error_samples
        .iter()
        .for_each(|fault| println!("  {fault}"));
    Ok(found.wrong + found.errors == 0)
}

fn work(options: Options) -> Result<Work, String> {
    let Options {
        path,
        body_bytes,
        connections,
        new_connections,
        rate,
        ..
    } = options;
    let parts: Vec<&str> = path.split('/').collect();
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|error| format!("{path}: {text}: {error}"))
    };
    match parts[..] {
        ["", "bytes", bytes, ..] => {
            let response_bytes = number(bytes)?;
            let keep_alive = !new_connections;
            Ok(Work::Requests {
                path,
                body_bytes,
                response_bytes,
                connections,
                keep_alive,
                rate,
            })
        }
        ["", "sse", _, bytes, _] => {
            let event_bytes = number(bytes)? as usize;
            Ok(Work::Streams {
                path,
                streams: connections,
                event_bytes,
            })
        }
        _ => Err(format!(
            "{path}: only the origin's /bytes and /sse can be checked"
        )),
    }
}
