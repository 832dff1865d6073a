//! The cores: one thread, one runtime, one listener each. Start, accept, drain.
mod listening;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::net::TcpListener as StdTcpListener;
use std::process;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info, warn};

use self::listening::{Listening, Shutters, named};
use crate::admin;
use crate::admin::about::About;
use crate::config::{Config, Listen, OutboundProtocol};
use crate::exchange::{Budget, Core, serve};
use crate::net::buffer;
use crate::net::catch::caught;
use crate::net::deadline::Deadline;
use crate::net::drain::Drain;
use crate::net::driver::{self, Chosen, Runtime};
use crate::net::listener::{BACKLOG, Listener, Whose};
use crate::net::mailbox::{self, Mailbox, Notice, Receiver, Sender, mailbox};
use crate::net::quota::{Quota, Taken};
use crate::net::resolver::{self, Addresses, Refresh};
use crate::net::splice;
use crate::net::supervisor;
use crate::net::tcp::Tcp;
use crate::net::tls::TlsSettings;
use crate::net::{select, sleep, spawn};
use crate::relay;
use crate::telemetry::clock::Moment;
use crate::telemetry::counters::count;
use crate::telemetry::record::Ids;
use crate::telemetry::report::{Gauges, Report};
use crate::upstream::connection::Upstream;

/// Pause of accepting after an error such as too many open files: it passes when connections close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often such an error is worth a line.
const ACCEPT_WARN_INTERVAL: Duration = Duration::from_secs(5);
/// Connections of a core, beyond `MAX_CLIENT_CONNECTIONS`, whose clients are told so at the same time.
/// What comes on top is closed without a word.
const TURNED_AWAY_MAX: u64 = 256;
/// Connections accepted before the tasks that serve them get their turn. Since Linux 6.13 a wait for the
/// ring hears of 20 deferred completions at most: who accepts faster than that collects connections.
const ACCEPT_BURST: usize = 8;
/// How often idle connections are looked at, each of which is looked at again when it is taken, and
/// unused buffers freed.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);
/// Between two reports: those who ask without end must not keep a core from its clients.
const REPORT_PAUSE: Duration = Duration::from_millis(1);
/// How often a draining core looks whether its last connection has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// Starts the workers and runs until SIGTERM or SIGINT has been obeyed. A second signal ends the
/// process at once.
///
/// # Errors
/// What stops the start: a port is in use, no thread or ring to be had.
pub fn run(config: &Config, tls: Option<&TlsSettings>) -> io::Result<()> {
    let signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| named(&error, "cannot listen for signals"))?;
    raise_descriptor_limit();
    let Listening {
        listeners,
        listen,
        admin,
        shutters,
    } = Listening::begin(config)?;
    let whose = listeners.whose;
    let workers = start_all(config, listeners.all, tls)
        .map_err(|error| named(&error, "cannot start the workers"))?;
    if let Some(listener) = admin {
        let about = About::new(config, listen.clone(), names(&workers.drivers));
        info!("admin listener on http://{}/", listener.local_addr()?);
        admin::start(listener, config, about, workers.mailboxes.clone())
            .map_err(|error| named(&error, "cannot start the admin listener"))?;
    }
    announce(config, tls, (&listen, whose), &workers.drivers);
    supervisor::tell("READY=1");
    until_drained(signals, workers, shutters, config.drain_timeout)
}

/// Waits for a signal, then for the workers to drain within `limit`.
fn until_drained(
    mut signals: Signals,
    workers: Workers,
    mut shutters: Shutters,
    limit: Duration,
) -> io::Result<()> {
    let (handle, count) = (signals.handle(), workers.mailboxes.len());
    let joined = in_thread("join", move || {
        // Over when each has said so, or has panicked.
        let ended = workers.drained.iter().count();
        handle.close();
        match ended == count {
            true => Ok(()),
            false => Err(io::Error::other("a worker has panicked")),
        }
    })?;
    let (word, given) = mpsc::channel();
    let closed = in_thread("drain", move || {
        if given.recv().is_ok() {
            shutters.keep_out(limit);
            for mailbox in &workers.mailboxes {
                mailbox.send(Notice::Drain);
            }
            let _ = workers.emptied.recv(); // an error: it has ended
            shutters.close();
        }
        shutters
    })?;
    let mut word = Some(word);
    for signal in signals.forever() {
        let Some(word) = word.take() else {
            warn!(signal, "second signal, ending at once");
            process::exit(1);
        };
        info!(signal, "draining, at most {} s", limit.as_secs_f64());
        supervisor::tell("STOPPING=1");
        let _ = word.send(()); // it is heard
    }
    drop(word);
    if let Ok(shutters) = closed.join() {
        shutters.end();
    }
    let unseen = |_| Err(io::Error::other("the end of the workers was not seen"));
    joined.join().unwrap_or_else(unseen)
}

/// The running workers.
struct Workers {
    mailboxes: Vec<Sender<Notice>>,
    /// Ends when nobody waits at their listeners any more.
    emptied: mpsc::Receiver<()>,
    /// Each says so when it has drained.
    drained: mpsc::Receiver<()>,
    drivers: Vec<Chosen>,
}

/// Starts a worker for each listener and waits until all of them run.
fn start_all(
    config: &Config,
    listeners: Vec<StdTcpListener>,
    tls: Option<&TlsSettings>,
) -> io::Result<Workers> {
    let (mut mailboxes, mut receivers) = (Vec::new(), Vec::new());
    for _ in &listeners {
        let (sender, receiver) = mailbox()?;
        mailboxes.push(sender);
        receivers.push(receiver);
    }
    let (refresh, refresh_targets) = start_resolvers(config, &mailboxes)?;
    let places = Quota::share(config.client_connections_max, config.workers);
    let bodies = Quota::share(config.buffered_bytes_max, config.workers);
    let quotas = places.into_iter().zip(bodies);
    let (started, starts) = mpsc::channel();
    let (has_emptied, emptied) = mpsc::channel();
    let (has_drained, drained) = mpsc::channel();
    let seats = listeners.into_iter().zip(receivers).zip(quotas);
    for (index, ((listener, mailbox), (places, bodies))) in seats.enumerate() {
        let seat = Seat {
            index,
            config: config.clone(),
            listener,
            mailbox,
            refresh: refresh.clone(),
            refresh_targets: refresh_targets.clone(),
            tls: tls.cloned(),
            connections_max: share(config.upstream.connections_max, config.workers, index),
            places,
            bodies,
            emptied: has_emptied.clone(),
            drained: has_drained.clone(),
        };
        let started = started.clone();
        let thread = thread::Builder::new().name(format!("worker-{index}"));
        thread.spawn(move || seat.work(started))?;
    }
    drop((started, has_emptied, has_drained));
    let drivers = starts.iter().collect::<io::Result<Vec<_>>>()?;
    Ok(Workers {
        mailboxes,
        emptied,
        drained,
        drivers,
    })
}

/// Looks up whom we connect to, and the upstream behind a proxy that wants addresses.
fn start_resolvers(
    config: &Config,
    cores: &[Sender<Notice>],
) -> io::Result<(Refresh, Option<Refresh>)> {
    let upstream = &config.upstream;
    let start = |whose, host: &str, port| resolver::start(whose, host, port, cores.to_vec());
    let Some(proxy) = &config.outbound else {
        // A socket is the one place to connect to: an address stands for it, and nothing is looked up.
        let host = upstream.socket.as_ref().map_or(&*upstream.host, |_| "::");
        let refresh = start(mailbox::Whose::Peer, host, upstream.port)?;
        return Ok((refresh, None));
    };
    let targets = (proxy.protocol == OutboundProtocol::Socks5)
        .then(|| start(mailbox::Whose::Target, &upstream.host, upstream.port));
    let refresh = start(mailbox::Whose::Peer, &proxy.host, proxy.port)?;
    Ok((refresh, targets.transpose()?))
}

/// What the cores run on.
fn names(chosen: &[Chosen]) -> String {
    let names: BTreeSet<_> = chosen.iter().map(|chosen| chosen.name).collect();
    Vec::from_iter(names).join(" and ")
}

fn in_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    let thread = thread::Builder::new().name(name.to_owned());
    (thread.spawn(work)).map_err(|error| named(&error, "cannot start a thread"))
}

fn announce(
    config: &Config,
    tls: Option<&TlsSettings>,
    (listen, whose): (&Listen, Whose),
    chosen: &[Chosen],
) {
    // One ring may be refused where another was not: locked memory is counted for all together.
    let reasons: BTreeSet<_> = chosen.iter().flat_map(|chosen| &chosen.fallbacks).collect();
    for reason in reasons {
        warn!("falling back to another driver: {reason}");
    }
    let of_tls = tls.and_then(|tls| tls.warning.clone());
    for warning in config.warnings().into_iter().chain(of_tls) {
        warn!("{warning}");
    }
    let driver = names(chosen);
    let through = (config.outbound.as_ref()).map_or(String::new(), |it| format!(" through {it}"));
    info!(
        "listening on {listen}{}, {} on {driver}, upstream {}{through}",
        match whose {
            Whose::Ours => "",
            Whose::Beside => " beside another process (REUSE_PORT)",
            Whose::Inherited => " as handed over (LISTEN_FDS)",
        },
        match config.workers {
            1 => "1 worker".to_owned(),
            workers => format!("{workers} workers"),
        },
        config.upstream.url()
    );
}

/// This core's part of a limit of the whole process; 0 = no limit.
fn share(limit: usize, cores: usize, index: usize) -> usize {
    limit / cores + usize::from(index < limit % cores)
}

/// Each connection is a descriptor or two: the soft limit is often 1024, the hard one is meant.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit); // then the soft limit it is
}

/// What a worker takes to its thread.
struct Seat {
    index: usize,
    config: Config,
    listener: StdTcpListener,
    mailbox: Receiver<Notice>,
    refresh: Refresh,
    refresh_targets: Option<Refresh>,
    tls: Option<TlsSettings>,
    connections_max: usize,
    places: Quota,
    bodies: Quota,
    /// Dropped when nobody waits at the listener any more.
    emptied: mpsc::Sender<()>,
    drained: mpsc::Sender<()>,
}

impl Seat {
    /// Says through `started` how the start went, then works until the process ends.
    fn work(self, started: mpsc::Sender<io::Result<Chosen>>) {
        let (mut runtime, chosen): (Runtime, _) = match driver::build() {
            Ok(built) => built,
            Err(error) => return drop(started.send(Err(error))),
        };
        runtime.block_on(self.run(chosen, started));
        // A dropped runtime would leak what is pending.
        std::mem::forget(runtime);
    }

    async fn run(self, chosen: Chosen, started: mpsc::Sender<io::Result<Chosen>>) {
        let opened = Listener::new(self.listener).and_then(|it| Ok((it, self.mailbox.open()?)));
        let (listener, mailbox) = match opened {
            Ok(opened) => opened,
            Err(error) => return drop(started.send(Err(error))),
        };
        let _ = started.send(Ok(chosen));
        drop(started); // the start is over when every worker has done so
        let config = Rc::new(self.config);
        let addresses = Addresses::new(self.refresh);
        let targets = self.refresh_targets.map(Addresses::new);
        let core = Rc::new(Core {
            upstream: Upstream::new(
                config.clone(),
                (addresses, targets),
                self.tls,
                self.connections_max,
            ),
            drain: Drain::default(),
            ids: Ids::default(),
            bodies: Rc::new(self.bodies),
            budget: (config.attempts.budget_percent)
                .map(|percent| Budget::new(percent, Moment::now())),
            config,
        });
        spawn(caught(tidy(core.clone())));
        let door = Rc::new(Door {
            core: core.clone(),
            places: Rc::new(self.places),
            turned_away: Quota::of_core(TURNED_AWAY_MAX),
            open: Rc::new(Cell::new(0)),
            warned: Cell::new(None),
        });
        spawn(caught(hear(mailbox, self.index, door.clone())));
        let accepting = door.clone();
        // Not on the runtime's root: as long as that can go on, monoio never waits for the ring, and
        // hears of nothing that DEFER_TASKRUN holds back until then.
        let deadline = spawn(async move { accepting.accept(&listener).await }).await;
        drop(self.emptied);
        while door.open.get() > 0 && !deadline.has_passed() {
            sleep(DRAIN_LOOK).await;
        }
        if door.open.get() > 0 {
            warn!(
                connections = door.open.get(),
                "drain time is over, closing what is left"
            );
        }
        let _ = self.drained.send(());
        drop(self.drained);
        // Other cores may not be done, and who asks how things are asks this one too.
        pending::<()>().await;
    }
}

/// Gives back, for ever, what was only kept in case it would be needed.
async fn tidy(core: Rc<Core>) {
    loop {
        sleep(TIDY_INTERVAL).await;
        core.upstream.tidy();
        buffer::trim();
        splice::trim();
    }
}

async fn hear(mut mailbox: Mailbox<Notice>, index: usize, door: Rc<Door>) {
    let core = &door.core;
    while let Some(notice) = mailbox.next().await {
        match notice {
            Notice::Drain => core.drain.start(),
            Notice::Resolved(whose, resolved, began) => {
                core.upstream.resolved(whose, resolved, began);
            }
            Notice::Report(to) => {
                to.send_at_once(Report::of_core(index, door.gauges()));
                sleep(REPORT_PAUSE).await;
            }
        }
    }
}

/// Where clients come in.
struct Door {
    core: Rc<Core>,
    /// `MAX_CLIENT_CONNECTIONS`.
    places: Rc<Quota>,
    turned_away: Rc<Quota>,
    /// Connections that a task of this core serves.
    open: Rc<Cell<usize>>,
    warned: Cell<Option<Moment>>,
}

impl Door {
    /// Accepts until the core drains, and then what is already in the queue. Nothing more comes there
    /// where the listener is ours, and closing it would reset what waits. Returns when all has to end.
    async fn accept(&self, listener: &Listener) -> Deadline {
        let drain = &self.core.drain;
        while !drain.has_started() {
            select! {
                biased;
                () = drain.started() => (),
                _ = listener.readable() => (), // an error shows at the accept
            }
            for number in 1..=ACCEPT_BURST {
                match listener.try_accept() {
                    Ok(Some(tcp)) => {
                        self.admit(tcp);
                        if number == ACCEPT_BURST {
                            driver::yield_on_epoll().await; // there may be more, without end
                        }
                    }
                    Ok(None) => {
                        if number == 1 {
                            // Another core was faster, or they all are about to be told to drain.
                            driver::yield_on_epoll().await;
                        }
                        break;
                    }
                    Err(error) => {
                        self.warn(&format!("cannot accept for now: {error}"));
                        sleep(ACCEPT_PAUSE).await;
                        break;
                    }
                }
            }
        }
        let deadline = Deadline::after(self.core.config.drain_timeout);
        for _ in 0..=BACKLOG {
            match listener.try_accept() {
                Ok(Some(tcp)) => self.admit(tcp),
                Ok(None) => break,
                // Such as too many open files, which pass: what waits is not given up for that.
                Err(_) if !deadline.has_passed() => sleep(ACCEPT_PAUSE).await,
                Err(_) => break,
            }
        }
        deadline
    }

    fn gauges(&self) -> Gauges {
        let core = &self.core;
        Gauges {
            client_connections: self.open.get() as u64,
            idle_connections: core.upstream.idle() as u64,
            buffered_bytes: core.bodies.held(),
            drains: relay::drains(),
            replays_left: (core.budget.as_ref()).map(|budget| budget.left(Moment::now())),
            draining: core.drain.has_started(),
        }
    }

    fn admit(&self, tcp: Tcp) {
        if let Some(place) = Taken::one(&self.places) {
            count(|core| &core.clients_admitted);
            self.start(tcp, place, false);
        } else if let Some(place) = Taken::one(&self.turned_away) {
            self.warn(
                "no more connections (MAX_CLIENT_CONNECTIONS), refusing requests on new ones",
            );
            count(|core| &core.clients_turned_away);
            self.start(tcp, place, true);
        } else {
            count(|core| &core.clients_closed);
            self.warn("too many connections to refuse, closing new ones (MAX_CLIENT_CONNECTIONS)");
        }
    }

    /// Serves a connection in a task of its own. A panic ends that task and its connection.
    fn start(&self, tcp: Tcp, place: Taken, turned_away: bool) {
        let (core, open) = (self.core.clone(), self.open.clone());
        open.set(open.get() + 1);
        spawn(async move {
            if let Err(panic) = caught(serve(&core, tcp, turned_away)).await {
                count(|core| &core.panics);
                error!(panic, "a connection's task has panicked and is closed");
            }
            open.set(open.get() - 1);
            drop(place);
        });
    }

    /// Says what keeps clients out, now and then.
    fn warn(&self, what: &str) {
        if self
            .warned
            .get()
            .is_none_or(|at| at.elapsed() > ACCEPT_WARN_INTERVAL)
        {
            self.warned.set(Some(Moment::now()));
            warn!(open = self.open.get(), "{what}");
        }
    }
}
