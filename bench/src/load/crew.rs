//! All connections of a run: made in batches, watched while they work, ended without a trace.
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use monoio::task::JoinHandle;
use monoio::time::{sleep, timeout};

use super::pace::Pace;
use super::requests::{Requests, Unit};
use super::socket::Slot;
use super::streams::Streams;
use super::{Edge, Run, Window, Work, clock};

/// How long it may take until all connections are up; a batch has twice the patience of a request.
const START_MAX: Duration = Duration::from_secs(60);
/// With more faults before all connections are up it is not going to work.
const START_FAULTS_MAX: u64 = 100;
/// Connections made at a time: backlogs of listeners are short.
const START_BATCH: usize = 64;
/// How long tasks may take to end once their connections are cut. They need a moment only.
const END_MAX: Duration = Duration::from_secs(5);
/// Between two looks of the watch.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// Between two looks for whether something has come about.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// The beginning, the longest time, the space and the end of an event.
const EVENT_BYTES_MIN: usize = 29;

/// The tasks of a run, one for each connection.
pub(super) struct Crew {
    run: Rc<Run>,
    plan: Plan,
    patience: Duration,
    slots: Vec<Rc<Slot>>,
    tasks: Vec<JoinHandle<()>>,
    clock: Option<JoinHandle<io::Result<()>>>,
    at_work: Rc<Cell<usize>>,
}

impl Crew {
    /// # Errors
    /// `work` makes no sense.
    pub(super) fn new(run: Rc<Run>, work: &Work, patience: Duration) -> io::Result<Self> {
        Ok(Self {
            plan: Plan::new(&run, work)?,
            run,
            patience,
            slots: Vec::new(),
            tasks: Vec::new(),
            clock: None,
            at_work: Rc::default(),
        })
    }

    /// Makes `size` connections and has them work until the end of the window.
    ///
    /// # Errors
    /// Not all of them came up.
    pub(super) async fn work(
        &mut self,
        size: usize,
        window: Window,
        sample: &mut dyn FnMut(Edge),
    ) -> io::Result<()> {
        let deadline = after(START_MAX);
        while self.slots.len() < size {
            let batch = START_BATCH.min(size - self.slots.len());
            (0..batch).for_each(|_| self.add());
            self.all_up(deadline.min(after(self.patience * 2))).await?;
        }
        if let Some(pace) = self.plan.pace() {
            self.clock = Some(pace.start()?);
        }
        self.pass(window.warm_up).await;
        sample(Edge::Begin);
        let begin = clock();
        self.run.begin.set(begin);
        self.pass(window.measured).await;
        let end = clock();
        self.run.end.set(end);
        sample(Edge::End);
        self.run.measured.borrow_mut().seconds = (end - begin) as f64 / 1e9;
        Ok(())
    }

    fn add(&mut self) {
        let slot = Rc::new(Slot::default());
        self.slots.push(slot.clone());
        let (plan, at_work) = (self.plan.clone(), self.at_work.clone());
        at_work.set(at_work.get() + 1);
        self.tasks.push(monoio::spawn(async move {
            match plan {
                Plan::Requests(requests) => requests.work(slot).await,
                Plan::Streams(streams) => streams.work(slot).await,
            }
            at_work.set(at_work.get() - 1);
        }));
    }

    async fn all_up(&self, deadline: u64) -> io::Result<()> {
        while self.run.up.get() < self.slots.len() {
            let faults = {
                let measured = self.run.measured.borrow();
                measured.wrong + measured.errors
            };
            if clock() > deadline || faults > START_FAULTS_MAX {
                let (up, all) = (self.run.up.get(), self.slots.len());
                let samples = self.run.measured.borrow().error_samples.join("; ");
                let reason = format!("{up} of {all} connections came up: {samples}");
                return Err(io::Error::other(reason));
            }
            sleep(LOOK_INTERVAL).await;
            self.watch(self.patience);
        }
        Ok(())
    }

    async fn pass(&self, duration: Duration) {
        let until = after(duration);
        loop {
            let left = Duration::from_nanos(until.saturating_sub(clock()));
            if left.is_zero() {
                return;
            }
            sleep(left.min(WATCH_INTERVAL)).await;
            self.watch(self.patience);
        }
    }

    fn watch(&self, patience: Duration) {
        let since = clock().saturating_sub(nanos(patience));
        self.slots.iter().for_each(|slot| slot.watch(since));
    }

    /// Ends all connections and tasks: a task left over would keep its descriptors for ever.
    ///
    /// # Errors
    /// One did not end.
    pub(super) async fn end(self) -> io::Result<()> {
        self.run.stopping.set(true);
        if let Some(pace) = self.plan.pace() {
            pace.stop();
        }
        if self.plan.ends_by_itself() {
            let until = after(self.patience + WATCH_INTERVAL);
            while self.at_work.get() > 0 && clock() < until {
                sleep(LOOK_INTERVAL).await;
                self.watch(self.patience);
            }
        }
        // What is cut while it waits has not waited as long as others may have to.
        self.watch(self.patience / 2);
        self.run.cut.set(true);
        self.slots.iter().for_each(|slot| slot.hang_up());
        let ended = timeout(END_MAX, async {
            for task in self.tasks {
                task.await;
            }
            match self.clock {
                Some(clock) => clock.await,
                None => Ok(()),
            }
        });
        ended.await.map_err(|_| io::ErrorKind::TimedOut)??;
        // The ring closes descriptors when it is entered next.
        sleep(LOOK_INTERVAL).await;
        Ok(())
    }
}

/// What each connection is to do.
#[derive(Clone)]
enum Plan {
    Requests(Rc<Requests>),
    Streams(Rc<Streams>),
}

impl Plan {
    fn new(run: &Rc<Run>, work: &Work) -> io::Result<Self> {
        let run = run.clone();
        Ok(match work {
            Work::Requests {
                path,
                body_bytes,
                response_bytes,
                keep_alive,
                rate,
                ..
            } => Self::Requests(Rc::new(Requests {
                request: request(&run, path, *body_bytes, *keep_alive),
                run,
                response_bytes: *response_bytes,
                keep_alive: *keep_alive,
                unit: Unit::Response,
                pace: rate.map(Pace::new).transpose()?.map(Rc::new),
            })),
            Work::Downloads { path, bytes, .. } => Self::Requests(Rc::new(Requests {
                request: request(&run, path, 0, true),
                run,
                response_bytes: *bytes,
                keep_alive: true,
                unit: Unit::Byte,
                pace: None,
            })),
            Work::Streams {
                path, event_bytes, ..
            } => {
                if *event_bytes < EVENT_BYTES_MIN {
                    let reason = "no time fits into an event of so few bytes";
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
                }
                let request = request(&run, path, 0, true);
                Self::Streams(Rc::new(Streams::new(run, request, *event_bytes)))
            }
        })
    }

    fn pace(&self) -> Option<&Rc<Pace>> {
        match self {
            Self::Requests(requests) => requests.pace.as_ref(),
            Self::Streams(_) => None,
        }
    }

    /// Whether what is under way at the end of a run is soon over: downloads and streams are cut.
    fn ends_by_itself(&self) -> bool {
        matches!(self, Self::Requests(requests) if requests.unit == Unit::Response)
    }
}

/// The bytes of each request of a run.
fn request(run: &Run, path: &str, body_bytes: usize, keep_alive: bool) -> Bytes {
    let method = if body_bytes == 0 { "GET" } else { "POST" };
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: bench\r\nAccept: */*\r\n",
        run.target
    );
    if body_bytes > 0 {
        request += "Content-Type: application/octet-stream\r\n";
        request += &format!("Content-Length: {body_bytes}\r\n");
    }
    if !keep_alive {
        request += "Connection: close\r\n";
    }
    request += "\r\n";
    let mut request = request.into_bytes();
    let head_bytes = request.len();
    while request.len() - head_bytes < body_bytes {
        let at = request.len() - head_bytes;
        request.extend_from_slice(run.pattern.at(at as u64, body_bytes - at));
    }
    request.into()
}

fn after(duration: Duration) -> u64 {
    clock().saturating_add(nanos(duration))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
