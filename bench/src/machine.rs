//! The machine it runs on: what the results name, and what has to be arranged before a run.
use std::{
    fs, io,
    net::TcpListener,
    process,
    sync::atomic::{AtomicU16, Ordering},
};

use procfs::Current;
use rustix::{
    process::{Resource, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity},
};

use crate::results::Machine;

/// Ports below those that Linux takes for outgoing connections, which thousands of them would use up.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

pub fn describe() -> Machine {
    let unknown = || "unknown".to_owned();
    let cpu = procfs::CpuInfo::current().ok();
    let cpu = cpu.and_then(|cpu| cpu.model_name(0).map(str::to_owned));
    let memory_bytes = procfs::Meminfo::current().map_or(0, |memory| memory.mem_total);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    Machine {
        cpu: cpu.unwrap_or_else(unknown),
        cores: std::thread::available_parallelism().map_or(1, Into::into),
        memory_gib: memory_bytes.div_ceil(1 << 30),
        // What a distribution appends says nothing here.
        kernel: kernel
            .as_deref()
            .and_then(|release| release.trim().split('-').next())
            .map_or_else(unknown, str::to_owned),
    }
}

/// Two cores that we may use; the same one twice where there is no other.
pub(crate) fn two_cores() -> io::Result<(usize, usize)> {
    let allowed = sched_getaffinity(None)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
    let first = cores.next().unwrap_or(0);
    Ok((first, cores.next().unwrap_or(first)))
}

/// A port of loopback on which nobody listens; another one each time.
pub fn free_port() -> io::Result<u16> {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Runs side by side begin at different places.
    let first = (process::id() % u32::from(count)) as u16;
    for _ in 0..count {
        let step = TRIED.fetch_add(1, Ordering::Relaxed) % count;
        let port = PORTS.start + (first + step) % count;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        "all ports of loopback are taken",
    ))
}

/// Raises the limit of open files to the highest allowed, for us and what we start.
pub fn allow_many_files() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
