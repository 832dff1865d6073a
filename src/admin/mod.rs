//! What operators look at: the admin listener, its page, its numbers for Prometheus and for scripts.
//!
//! It has a thread and a runtime of its own: a page costs the cores no more than a copy of what they have
//! counted. It speaks HTTP as clients are spoken to, by the same code.
pub mod about;
mod metrics;
mod page;
mod status;
mod totals;
mod units;

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;
use std::net::TcpListener as StdTcpListener;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use tracing::error;

use crate::admin::about::About;
use crate::config::Config;
use crate::downstream::client::Client;
use crate::downstream::reply::{Answered, Own, Unanswered};
use crate::downstream::request::{self, Next, Request};
use crate::http1::framing::Framing;
use crate::net::buffer::{self, Buffer};
use crate::net::catch::caught;
use crate::net::deadline::Deadline;
use crate::net::drain::Drain;
use crate::net::listener::Listener;
use crate::net::mailbox::{Notice, Sender, mailbox};
use crate::net::quota::{Quota, Taken};
use crate::net::tcp::Tcp;
use crate::net::{driver, sleep, spawn};
use crate::telemetry::report::Report;
use crate::telemetry::whole::Whole;

/// Connections at the same time: a browser, a scraper, a few scripts. More are closed.
const CONNECTIONS_MAX: u64 = 64;
/// How long a core may take to say how things are. It does so between two requests.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause of accepting after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a client may take for a head, or to take an answer, and rest between two requests.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// What there is, for who asks for something else.
const NOT_FOUND: &str = "There are / (a page), /metrics, /status.json and /healthz here.\n";
/// To a website that reads what is on loopback by a name of its own (DNS rebinding), and to its visitor.
const FOREIGN_NAME: &str = "On a loopback address only an IP address or localhost is answered as Host, \
                            so that no website can point its name here and read this.\n";

/// Starts the thread that answers on `listener`, for as long as the process lives.
///
/// # Errors
/// No thread or runtime is to be had.
pub fn start(
    listener: StdTcpListener,
    config: &Config,
    about: About,
    cores: Vec<Sender<Notice>>,
) -> io::Result<()> {
    let on_loopback = listener.local_addr()?.ip().to_canonical().is_loopback();
    let config = plain(config.clone(), on_loopback);
    let admin = move || -> io::Result<()> {
        let (mut runtime, _) = driver::build()?;
        runtime.block_on(async {
            let listener = Listener::new(listener)?;
            let latest = cores.iter().map(|_| None).collect();
            let admin = Rc::new(Admin {
                config,
                about,
                cores,
                latest: RefCell::new(latest),
            });
            // A task, as on the cores: the runtime's root is not to be kept busy.
            spawn(admin.accept(listener)).await;
            Ok(())
        })
    };
    let ended = move || {
        if let Err(error) = admin() {
            error!(%error, "there is no admin listener");
        }
    };
    let thread = thread::Builder::new().name("admin".to_owned());
    thread.spawn(ended).map(drop)
}

/// What of the settings holds here: no token, no base path, no bodies. On loopback browsers of this
/// machine can be led here, whatever website they show.
fn plain(mut config: Config, on_loopback: bool) -> Config {
    config.client.any_host = !on_loopback;
    config.access_token = None;
    config.upstream.credential = None;
    config.upstream.path = String::new();
    config.client.body_bytes_max = 0;
    config.client.header_timeout = CLIENT_TIMEOUT;
    config.client.idle_timeout = CLIENT_IDLE_TIMEOUT;
    config.client.write_timeout = CLIENT_TIMEOUT;
    config
}

/// The process, as its operators see it.
struct Admin {
    config: Config,
    about: About,
    cores: Vec<Sender<Notice>>,
    /// What each core has said last: where one is silent, that has to do.
    latest: RefCell<Vec<Option<Report>>>,
}

impl Admin {
    async fn accept(self: Rc<Self>, listener: Listener) {
        let places = Quota::of_core(CONNECTIONS_MAX);
        loop {
            let _ = listener.readable().await; // an error shows at the accept
            match listener.try_accept() {
                Ok(Some(tcp)) => {
                    let Some(place) = Taken::one(&places) else {
                        continue;
                    };
                    let admin = self.clone();
                    spawn(async move {
                        if let Err(panic) = caught(admin.serve(tcp)).await {
                            error!(
                                panic,
                                "an admin connection's task has panicked and is closed"
                            );
                        }
                        drop(place);
                        buffer::trim();
                    });
                }
                Ok(None) => (),
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    async fn serve(&self, tcp: Tcp) {
        let client = Client {
            tcp,
            limits: self.config.client.clone(),
            bodies: Quota::of_core(0),
        };
        let (mut input, drain, mut first) = (Buffer::empty(), Drain::default(), true);
        loop {
            let next = request::next(&client, &mut input, &self.config, &drain, first).await;
            let answered = match next {
                Next::Nothing => return,
                Next::Refused(refusal, named) => {
                    let reply = Unanswered::new(&client, &drain, named.method == "HEAD", false);
                    reply.refuse(&refusal, (0, None), "-").await
                }
                Next::Request(request) => self.answer(&client, &drain, &request).await,
            };
            if !answered.keep_alive {
                if answered.lingers {
                    client.linger().await;
                }
                return;
            }
            first = false;
        }
    }

    async fn answer(&self, client: &Client, drain: &Drain, request: &Request) -> Answered {
        // A body that nobody reads ends the connection.
        let keep_alive = request.keep_alive && request.framing != Framing::Chunked;
        let (method, path) = (&*request.named.method, &*request.named.path);
        let reply = Unanswered::new(client, drain, method == "HEAD", keep_alive);
        if request.by_foreign_name {
            return reply
                .tell(&text((403, "Forbidden"), FOREIGN_NAME), false)
                .await;
        }
        if !matches!(method, "GET" | "HEAD") {
            let own = Own {
                fields: &[("Allow", "GET, HEAD".to_owned())], // RFC 9110 15.5.6
                ..text((405, "Method Not Allowed"), "There is GET and HEAD here.\n")
            };
            return reply.tell(&own, false).await;
        }
        if !matches!(path, "/" | "/healthz" | "/metrics" | "/status.json") {
            return reply
                .tell(&text((404, "Not Found"), NOT_FOUND), false)
                .await;
        }
        let fields = page::fields();
        let (whole, silent) = self.ask().await;
        let own = match path {
            "/metrics" => metrics::answer(&self.about, &whole, silent),
            "/" => Own {
                content_type: "text/html; charset=utf-8",
                fields: &fields,
                ..Own::json((200, "OK"), page::html(&self.about, &whole, silent))
            },
            "/status.json" => Own::json((200, "OK"), status::json(&self.about, &whole, silent)),
            _ => status::health(&whole, silent),
        };
        reply.tell(&own, false).await
    }

    /// How things are, and how many cores have not said so in time. Where there is no descriptor to hear
    /// them with, that is all of them.
    async fn ask(&self) -> (Whole, usize) {
        let mut silent = self.cores.len();
        if let Ok((to, answers)) = mailbox()
            && let Ok(mut answers) = answers.open()
        {
            for core in &self.cores {
                core.send(Notice::Report(to.clone()));
            }
            drop(to);
            let deadline = Deadline::after(REPORT_TIMEOUT);
            while silent > 0
                && let Ok(Some(report)) = deadline.limit(answers.next()).await
            {
                silent -= 1;
                let core = report.core;
                self.latest.borrow_mut()[core] = Some(report);
            }
        }
        (Whole::of(self.latest.borrow().iter().flatten()), silent)
    }
}

fn text<'o>(status: (u16, &'static str), body: impl Into<Cow<'o, str>>) -> Own<'o> {
    Own {
        content_type: "text/plain; charset=utf-8",
        ..Own::json(status, body)
    }
}
