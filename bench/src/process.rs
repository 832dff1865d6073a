//! A program under test: started on chosen cores, measured with all its children, killed when dropped.
use std::{
    fs::{self, File},
    io,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{time::ClockId, unistd::Pid};
use procfs::process::{Process, Stat};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// How much of a program's log an error repeats.
const LOG_TAIL_LINES: usize = 15;

/// What the kernel calls the threads that it adds to a process for operations of a ring that block.
const IO_WORKER: &str = "iou-wrk";

/// What a program holds at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    pub rss_kib: u64,
    pub descriptors: u64,
    /// Those of the kernel's ring workers included.
    pub threads: u64,
    pub io_workers: u64,
}

/// Stays in the group of the terminal's foreground, so that Ctrl-C ends it together with us.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts `command`, which may run on `cores` only (none: anywhere); what it prints goes to `log`.
    pub fn start(command: &mut Command, cores: &[usize], log: &Path) -> io::Result<Self> {
        let output = File::create(log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        // A child inherits where its parent may run: so for the moment, here too.
        let before = sched_getaffinity(None)?;
        if !cores.is_empty() {
            pin(cores)?;
        }
        let child = command.spawn();
        sched_setaffinity(None, &before)?;
        Ok(Self {
            child: child?,
            log: log.to_owned(),
        })
    }

    /// Waits until it accepts connections on `addr`. The error repeats the end of its log.
    pub fn wait_until_it_accepts(
        &mut self,
        addr: SocketAddr,
        limit: Duration,
    ) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        loop {
            // A connection to a free port of the ephemeral range may be one with itself.
            let accepted = TcpStream::connect(addr)
                .is_ok_and(|conn| conn.local_addr().is_ok_and(|local| local != addr));
            if accepted {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("ended at once ({status}); {}", self.log_tail()));
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "does not accept on {addr} within {limit:?}; {}",
                    self.log_tail()
                ));
            }
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// CPU time in user and kernel mode so far, of the program and all it started. Exact for what still
    /// runs, threads that have ended included; to 10 ms for processes that have ended.
    pub fn cpu(&self) -> Duration {
        let of_one = |process: &Process| {
            let clock =
                ClockId::pid_cpu_clock_id(Pid::from_raw(process.pid)).and_then(ClockId::now);
            let ended = process
                .stat()
                .map_or(Duration::ZERO, |stat| ended_children(&stat));
            clock.map_or(Duration::ZERO, Duration::from) + ended
        };
        self.tree().iter().map(of_one).sum()
    }

    /// Resident memory in KiB (Rss). Pages that processes of the tree share count once for each of them.
    pub fn rss_kib(&self) -> u64 {
        let of_one = |process: &Process| {
            let maps = process.smaps_rollup().ok()?.memory_map_rollup;
            let rss_bytes = maps
                .iter()
                .filter_map(|map| map.extension.map.get("Rss"))
                .sum::<u64>();
            Some(rss_bytes / 1024)
        };
        self.tree().iter().filter_map(of_one).sum()
    }

    /// What it holds at this moment, with all its children.
    pub fn holdings(&self) -> Holdings {
        let tree = self.tree();
        let descriptors = tree.iter().filter_map(|process| process.fd_count().ok());
        let tasks = tree
            .iter()
            .filter_map(|process| process.tasks().ok())
            .flatten();
        let names: Vec<String> = tasks
            .filter_map(|task| Some(task.ok()?.stat().ok()?.comm))
            .collect();
        let io_workers = names.iter().filter(|name| name.starts_with(IO_WORKER));
        Holdings {
            rss_kib: self.rss_kib(),
            descriptors: descriptors.sum::<usize>() as u64,
            threads: names.len() as u64,
            io_workers: io_workers.count() as u64,
        }
    }

    /// The last lines that it printed, to show beside an error.
    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        if tail.is_empty() {
            "its log is empty".into()
        } else {
            format!("its log ends:\n{}", tail.join("\n"))
        }
    }

    /// The program and what descends from it, parents first.
    fn tree(&self) -> Vec<Process> {
        let mut tree: Vec<Process> = Process::new(self.child.id().cast_signed())
            .into_iter()
            .collect();
        let mut seen = 0;
        while let Some(process) = tree.get(seen) {
            let tasks = process.tasks().into_iter().flatten().flatten();
            let children = tasks.flat_map(|task| task.children().unwrap_or_default());
            let children: Vec<Process> = children
                .filter_map(|pid| Process::new(pid.cast_signed()).ok())
                .collect();
            tree.extend(children);
            seen += 1;
        }
        tree
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Parents first: they cannot start anew what is killed after them.
        for process in self.tree() {
            let pid = rustix::process::Pid::from_raw(process.pid);
            if let Some(pid) = pid {
                // One that has ended by itself needs no signal.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// Lets the calling thread, and what it starts from now on, run on `cores` only.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}

fn ended_children(stat: &Stat) -> Duration {
    let ticks = (stat.cutime + stat.cstime).max(0).cast_unsigned();
    Duration::from_millis(ticks * 1000 / procfs::ticks_per_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Burns about as much as it says, in a child that goes on, a child that ended, and itself.
    const BURN: &str = "burn() { i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done; }
        burn; (burn); (burn; echo child; exec sleep 60) & wait";

    #[test]
    fn cpu_counts_children_that_run_and_that_ended_and_dropping_kills_them() {
        let log = std::env::temp_dir().join(format!("bench-process-{}", std::process::id()));
        let running = Running::start(Command::new("sh").args(["-c", BURN]), &[0], &log)
            .expect("every system has a shell");
        let deadline = Instant::now() + Duration::from_secs(60);
        while !fs::read_to_string(&log).is_ok_and(|log| log.contains("child")) {
            assert!(Instant::now() < deadline, "the shell takes too long");
            thread::sleep(Duration::from_millis(10));
        }
        let tree = running.tree();
        assert_eq!(tree.len(), 2, "the shell and the child that sleeps");
        let alone = ClockId::pid_cpu_clock_id(Pid::from_raw(tree[0].pid)).and_then(ClockId::now);
        let alone = Duration::from(alone.expect("the shell waits for its child"));
        let all = running.cpu();
        assert!(
            all > alone * 5 / 2,
            "three burned alike: {all:?} in all, {alone:?} by one"
        );
        assert!(running.rss_kib() > 100);
        drop(running);
        // Killed, it takes a moment to end, and may then wait to be reaped.
        while tree[1].stat().is_ok_and(|stat| stat.state != 'Z') {
            assert!(Instant::now() < deadline, "the child lives on");
            thread::sleep(Duration::from_millis(1));
        }
        fs::remove_file(log).expect("it was written to");
    }

    #[test]
    fn the_end_of_the_log_says_why_it_does_not_start() {
        let log = std::env::temp_dir().join(format!("bench-log-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such setting; exit 3"]);
        let mut running =
            Running::start(&mut command, &[], &log).expect("every system has a shell");
        let nobody = "127.0.0.1:1".parse().expect("an address");
        let error = running.wait_until_it_accepts(nobody, Duration::from_secs(20));
        let error = error.expect_err("nobody listens");
        assert!(
            error.contains("exit status: 3") && error.contains("no such setting"),
            "{error}"
        );
        fs::remove_file(log).expect("it was written to");
    }
}
