//! One measurement: a contestant, started for it alone, between the load and the origin.
use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use super::works::Plan;
use crate::{
    load::{self, Edge, Measured, Window, Work},
    machine,
    origin::{self, Origin},
    peers::{Peer, Upstream},
    process::{self, Running},
    results::{Latency, Sample},
};

/// Longer than any proxy takes for a first request, on a machine with other work.
const FIRST_RESPONSE_LIMIT: Duration = Duration::from_secs(10);

/// What stays up during a whole comparison: the origins, and who runs where.
pub struct Stage {
    plain: Origin,
    tls: Origin,
    ca_file: PathBuf,
    /// Removed in the end.
    scratch: PathBuf,
    /// Of the contestants.
    pub core: usize,
    /// Of load and origin, which take turns. The same as the other one where there is only one.
    pub load_core: usize,
    pub window: Window,
}

/// What a measurement found, and what it has to say of faults.
pub struct Found {
    pub sample: Sample,
    pub faults: Vec<String>,
}

impl Stage {
    /// Starts the origins and leaves the calling thread on the core of the load.
    pub fn set(window: Window) -> io::Result<Self> {
        machine::allow_many_files()?;
        let (core, load_core) = machine::two_cores()?;
        process::pin(&[load_core])?;
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let plain = origin::start(any_port, Some(load_core), None)?;
        let scratch = std::env::temp_dir().join(format!("bench-{}", plain.addr.port()));
        fs::create_dir_all(&scratch)?;
        let ca_file = scratch.join("ca.pem");
        let config = origin::server_config(&ca_file)?;
        let tls = origin::start(any_port, Some(load_core), Some(config))?;
        Ok(Self {
            plain,
            tls,
            ca_file,
            scratch,
            core,
            load_core,
            window,
        })
    }

    /// Measures `plan` behind `peer`, or without anything in between.
    ///
    /// # Errors
    /// What kept it from being measured at all.
    pub fn measure(
        &self,
        peer: Option<&Peer>,
        plan: &Plan,
        round: usize,
        cores: &[usize],
    ) -> Result<Found, String> {
        let started = peer
            .map(|peer| self.start(peer, plan.tls, cores))
            .transpose()?;
        let (running, target) = match &started {
            Some((running, listen)) => (Some(running), *listen),
            None => (None, self.plain.addr),
        };
        let with_log = |error: io::Error| match running {
            Some(running) => format!("{error}; {}", running.log_tail()),
            None => error.to_string(),
        };
        // Also wakes what it has yet to set up, which is not what a stream costs.
        first_response(target).map_err(with_log)?;
        let cpu = || running.map_or(Duration::ZERO, Running::cpu);
        let rss_kib = || {
            running
                .filter(|_| plan.measures_memory())
                .map(Running::rss_kib)
        };
        let (rss_before_kib, mut rss_after_kib) = (rss_kib(), None);
        let (mut cpu_before, mut cpu_after) = (Duration::ZERO, Duration::ZERO);
        let measured = load::run(target, &plan.load, self.window, &mut |edge| match edge {
            Edge::Begin => cpu_before = cpu(),
            Edge::End => {
                cpu_after = cpu();
                rss_after_kib = rss_kib();
            }
        });
        let measured = measured.map_err(with_log)?;
        let spent = running.map(|_| cpu_after.saturating_sub(cpu_before));
        let grown_kib = rss_after_kib.zip(rss_before_kib);
        let grown_kib = grown_kib.map(|(after, before)| after as f64 - before as f64);
        Ok(Found {
            sample: Sample {
                contestant: peer.map_or("direct", |peer| peer.name).to_owned(),
                round,
                stream_kib: grown_kib.map(|grown| grown / plan.load.connections() as f64),
                ..sample(&plan.load, &measured, spent)
            },
            faults: measured.error_samples,
        })
    }

    /// Starts `peer` before one of the origins.
    pub fn start(
        &self,
        peer: &Peer,
        tls: bool,
        cores: &[usize],
    ) -> Result<(Running, SocketAddr), String> {
        let port = machine::free_port().map_err(|error| error.to_string())?;
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        let mut upstream = Upstream::plain(if tls { self.tls.addr } else { self.plain.addr });
        upstream.ca_file = tls.then(|| self.ca_file.clone());
        let running = peer.start(listen, &upstream, cores, &self.scratch.join(peer.name))?;
        Ok((running, listen))
    }

    pub fn scratch(&self) -> &Path {
        &self.scratch
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Left behind, it is a few small files in a place for such.
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// Sends one request and reads the response to its end.
pub fn first_response(addr: SocketAddr) -> io::Result<()> {
    let mut conn = TcpStream::connect(addr)?;
    conn.set_read_timeout(Some(FIRST_RESPONSE_LIMIT))?;
    conn.write_all(b"GET /bytes/1024 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut response = Vec::new();
    conn.read_to_end(&mut response)?;
    if response.starts_with(b"HTTP/1.1 200 ") && response.len() > 1024 {
        return Ok(());
    }
    let line = response
        .split(|&byte| byte == b'\r')
        .next()
        .unwrap_or_default();
    Err(io::Error::other(format!(
        "answered with {:?}",
        String::from_utf8_lossy(line)
    )))
}

/// The name of what costs are counted by, how many of the load's units it has, and how many of the
/// unit of CPU time are in a second.
pub fn unit(load: &Work) -> (&'static str, f64, f64) {
    match load {
        Work::Requests { .. } => ("request", 1.0, 1e6),
        Work::Downloads { .. } => ("GB", 1e9, 1.0),
        Work::Streams { .. } => ("event", 1.0, 1e6),
    }
}

fn sample(load: &Work, measured: &Measured, spent: Option<Duration>) -> Sample {
    let (_, unit_size, cpu_scale) = unit(load);
    let units = measured.units as f64 / unit_size;
    let latency = &measured.latency;
    let quantile_us = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
    let has_latency = !matches!(load, Work::Downloads { .. }) && !latency.is_empty();
    Sample {
        contestant: String::new(),
        round: 0,
        cpu: spent
            .filter(|_| units > 0.0)
            .map(|spent| spent.as_secs_f64() * cpu_scale / units),
        rate: units / measured.seconds,
        latency: has_latency.then(|| Latency {
            p50: quantile_us(0.5),
            p99: quantile_us(0.99),
            p999: quantile_us(0.999),
        }),
        stream_kib: None,
        wrong: measured.wrong,
        errors: measured.errors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{compare::works, peers};

    const SHORT: Window = Window {
        warm_up: Duration::from_millis(20),
        measured: Duration::from_millis(100),
    };

    #[test]
    fn a_measurement_counts_what_was_done() {
        let stage = Stage::set(SHORT).expect("loopback");
        let plans = works::all(true);
        for id in ["post-1k-64", "get-1m-length", "sse-100x200"] {
            let plan = plans
                .iter()
                .find(|plan| plan.id == id)
                .expect("a kind of work");
            let found = stage
                .measure(None, plan, 0, &[])
                .unwrap_or_else(|error| panic!("{error}"));
            let Sample {
                cpu,
                rate,
                wrong,
                errors,
                ..
            } = found.sample;
            assert!(
                rate > 0.0 && (cpu, wrong, errors) == (None, 0, 0),
                "{id}: {:?}",
                found.faults
            );
        }
    }

    #[test]
    fn every_installed_peer_verifies_the_certificate_of_the_origin() {
        let stage = Stage::set(SHORT).expect("loopback");
        let stranger = stage.scratch.join("stranger.pem");
        origin::server_config(&stranger).expect("a CA is made");
        // The relay does not speak TLS.
        for peer in peers::installed()
            .iter()
            .filter(|peer| peer.name != "relay")
        {
            for (ca_file, trusted) in [(&stage.ca_file, true), (&stranger, false)] {
                let listen =
                    SocketAddr::from(([127, 0, 0, 1], machine::free_port().expect("a port")));
                let mut upstream = Upstream::plain(stage.tls.addr);
                upstream.ca_file = Some(ca_file.clone());
                let running = peer.start(listen, &upstream, &[], &stage.scratch.join(peer.name));
                let running = running.unwrap_or_else(|error| panic!("{error}"));
                let response = first_response(listen);
                let (name, log) = (peer.name, running.log_tail());
                assert_eq!(response.is_ok(), trusted, "{name}: {response:?}; {log}");
            }
        }
    }
}
