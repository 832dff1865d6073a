//! The page: whether all is well, what was rescued, what that has cost and what hangs now. Whole without
//! JavaScript; `page.js` asks for it again and takes over what differs.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::admin::about::About;
use crate::admin::totals;
use crate::admin::units::{duration, foreign, number, since};
use crate::config::Listen;
use crate::telemetry::live::{Going, MISHAPS_MAX, Mishap};
use crate::telemetry::whole::Whole;
use crate::telemetry::words::{Ending, Phase};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Nothing from elsewhere, no style and no script but its own two. The hashes are those of `page.css` and
/// `page.js`; a test says what they are after a change.
const POLICY: &str = concat!(
    "default-src 'none'; connect-src 'self'; img-src data:; ",
    "style-src 'sha256-7IM04BLj/UGT8dGOkr+B+o/t+4iqsI4kchUEC+vxe2A='; ",
    "script-src 'sha256-pqWMq+Y3iMPpGxmgiX5DXwo1AbuilRij6r5eCagm/II='; ",
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Failures that are older than this say nothing about now.
const RECENT: Duration = Duration::from_secs(5 * 60);
/// Of a path: more than is ever kept of one.
const PATH_CHARS_MAX: usize = 256;
/// Of a method: those of HTTP are shorter, and clients may send any.
const METHOD_CHARS_MAX: usize = 16;
/// Of a cause: an error of the system or the resolver, in a sentence.
const CAUSE_CHARS_MAX: usize = 300;

/// The fields that go with it.
pub(super) fn fields() -> [(&'static str, String); 3] {
    [
        ("Content-Security-Policy", POLICY.to_owned()),
        ("Cache-Control", "no-store".to_owned()),
        ("X-Content-Type-Options", "nosniff".to_owned()),
    ]
}

/// All of it. `silent` cores have not answered in time: what `whole` says of them is older.
pub(super) fn html(about: &About, whole: &Whole, silent: usize) -> String {
    let (word, mood, sentence) = verdict(whole);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (word) " · codex-reset-proxy" }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
                noscript { meta http-equiv="refresh" content="5"; }
            }
            body {
                header {
                    h1 { "codex-reset-proxy" }
                    p #live {
                        span role="status" {}
                        span {}
                        noscript { "anew every 5 s" }
                    }
                }
                main {
                    (now(about, whole, silent, (word, mood, sentence)))
                    (totals::html(&whole.counters, about.header_timeout))
                    (failures(&whole.mishaps))
                    (totals::connections(whole))
                    (settings(about))
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string()
}

/// A word, its class, and a sentence.
fn verdict(whole: &Whole) -> (&'static str, &'static str, Markup) {
    let is_recent = |mishap: &&Mishap| mishap.at.elapsed().is_ok_and(|age| age < RECENT);
    let recent = whole.mishaps.iter().filter(is_recent).count();
    if whole.gauges.draining {
        let sentence = html! { "It accepts no more and finishes what there is." };
        ("Draining", "calm", sentence)
    } else if let Some(latest) = whole.mishaps.first().filter(|_| recent > 0) {
        let sentence = html! {
            @match recent {
                1 => "A failure in the last 5 minutes, ",
                // No more are remembered.
                MISHAPS_MAX => { (recent) " failures or more in the last 5 minutes, the latest " }
                _ => { (recent) " failures in the last 5 minutes, the latest " }
            }
            (since(latest.at)) " ago."
        };
        ("Not all is well", "ill", sentence)
    } else if is_unused(whole) {
        let sentence = html! { "Nothing has been asked of it yet." };
        ("Ready", "calm", sentence)
    } else {
        let sentence = html! { "No attempt and no response has failed in the last 5 minutes." };
        ("All is well", "well", sentence)
    }
}

fn ended(whole: &Whole) -> u64 {
    whole
        .counters
        .exchanges
        .iter()
        .map(|count| count.value())
        .sum()
}

fn is_unused(whole: &Whole) -> bool {
    ended(whole) + whole.in_flight() == 0
}

fn now(
    about: &About,
    whole: &Whole,
    silent: usize,
    (word, mood, sentence): (&str, &str, Markup),
) -> Markup {
    html! {
        section .verdict .(mood) aria-labelledby="verdict" {
            h2 #verdict { (word) }
            p { (sentence) }
            p .route {
                code { (about.listen) } " → " code { (foreign(&about.upstream, CAUSE_CHARS_MAX)) }
                ", up " span #uptime { (since(about.started)) }
            }
            @if silent > 0 {
                p #silent .note {
                    (silent) " of " (about.workers)
                    " workers did not answer in time: what is said of them is older."
                }
            }
        }
        (figures(whole))
        section aria-labelledby="going" {
            h2 #going { "In flight" }
            (phases(&whole.phases))
            (oldest(about, whole))
        }
    }
}

/// What is looked at first.
fn figures(whole: &Whole) -> Markup {
    let counters = &whole.counters;
    let ended_as = |ending: Ending| counters.exchanges[ending as usize].value();
    let figure = |id: &str, class: &str, term: &str, value: u64, note: Markup| {
        html! {
            div .(if value > 0 { class } else { "none" }) {
                dt { (term) }
                dd #(id) { (number(value)) }
                dd .small { (note) }
            }
        }
    };
    let oldest = html! {
        @match whole.oldest.first() {
            Some(oldest) => { "the oldest for " (duration(oldest.since.elapsed())) ", " (in_words(oldest.phase)) }
            None => "nothing hangs",
        }
    };
    html! {
        dl .figures {
            (figure("requests", "", "Requests", ended(whole), html! { "have ended, in one way or another" }))
            (figure("rescued", "good", "Rescued", ended_as(Ending::Rescued),
                html! { "answered although an attempt had failed" }))
            (figure("exhausted", "bad", "Exhausted", ended_as(Ending::Exhausted),
                html! { "given up: the last attempt failed as well" }))
            (figure("possibly-doubled", "dear", "Possibly billed twice", counters.possibly_doubled.value(),
                html! { "sent again after a peer had taken all of it" }))
            (figure("in-flight", "", "In flight", whole.in_flight(), oldest))
        }
    }
}

fn in_words(phase: Phase) -> &'static str {
    match phase {
        Phase::Receiving => "its request still coming",
        Phase::Pool => "waiting for a connection",
        Phase::Resolve => "looking the upstream up",
        Phase::Connect => "connecting",
        Phase::Proxy => "asking the outbound proxy",
        Phase::Tls => "shaking hands",
        Phase::Send => "sending",
        Phase::Header => "waiting for its response",
        Phase::Backoff => "pausing before the next attempt",
        Phase::Relay => "its response under way",
        Phase::Tunnel => "a tunnel",
    }
}

fn phases(counts: &[u64; Phase::NAMES.len()]) -> Markup {
    html! {
        dl .phases {
            @for (name, count) in Phase::NAMES.into_iter().zip(counts) {
                div .none[*count == 0] {
                    dt { (name) }
                    dd #{ "phase-" (name) } { (number(*count)) }
                }
            }
        }
    }
}

fn oldest(about: &About, whole: &Whole) -> Markup {
    let more = whole.in_flight().saturating_sub(whole.oldest.len() as u64);
    html! {
        // Always as high, so that what is below does not jump; what does not fit is scrolled to.
        div #oldest .list tabindex="0" role="region" aria-label="The oldest in flight" {
            @if is_unused(whole) {
                (welcome(about))
            } @else if whole.oldest.is_empty() {
                p .empty { "Nothing is in flight." }
            } @else {
                table {
                    thead {
                        tr {
                            th scope="col" .age { "Age" }
                            th scope="col" .phase { "Phase" }
                            th scope="col" { "Request, oldest first" }
                        }
                    }
                    tbody { @for going in &whole.oldest { (in_flight(going)) } }
                }
                @if more > 0 {
                    p #more .empty { "and " (number(more)) " more" }
                }
            }
        }
    }
}

fn in_flight(going: &Going) -> Markup {
    html! {
        tr {
            td { (duration(going.since.elapsed())) }
            td {
                (going.phase.name())
                @if going.attempt > 1 { div .small { "attempt " (going.attempt) } }
            }
            td { (request(&going.method, &going.path, &going.id)) }
        }
    }
}

fn request(method: &str, path: &str, id: &str) -> Markup {
    html! {
        div .path { (foreign(method, METHOD_CHARS_MAX)) " " (foreign(path, PATH_CHARS_MAX)) }
        div .small { code { (id) } }
    }
}

/// What to do with a proxy that nobody uses.
fn welcome(about: &About) -> Markup {
    let (through, base) = match &about.listen {
        Listen::Tcp(addr) => {
            let ip = match addr.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            };
            let addr = SocketAddr::new(ip, addr.port());
            (String::new(), format!("http://{addr}"))
        }
        Listen::Unix(path) => (
            format!("--unix-socket {} ", path.display()),
            "http://localhost".to_owned(),
        ),
    };
    let version = if about.upstream.ends_with("/v1") {
        ""
    } else {
        "/v1"
    };
    html! {
        div .empty {
            p { "Let a client ask " code { (base) } " instead of the upstream, or try:" }
            p { code { "curl " (through) (base) (version) "/models" } }
        }
    }
}

fn failures(mishaps: &[Mishap]) -> Markup {
    html! {
        section aria-labelledby="failures" {
            h2 #failures { "Last failures" }
            div #mishaps .list tabindex="0" role="region" aria-label="The last failures" {
                @if mishaps.is_empty() {
                    p .empty { "No attempt and no response has failed." }
                } @else {
                    table {
                        thead {
                            tr {
                                th scope="col" .age { "Ago" }
                                th scope="col" { "Failure, latest first" }
                                th scope="col" { "Request" }
                            }
                        }
                        tbody { @for mishap in mishaps { (failure(mishap)) } }
                    }
                }
            }
            p .small {
                code { "acked" } " means that the peer's kernel has taken all of the request, so that it may "
                "have been processed, and billed; behind a CDN the peer is its edge. " code { "not_acked" }
                " means that it has not, " code { "not_sent" } " that nothing was sent."
            }
        }
    }
}

fn failure(mishap: &Mishap) -> Markup {
    html! {
        tr {
            td { (since(mishap.at)) }
            td {
                (foreign(&mishap.cause, CAUSE_CHARS_MAX))
                div .small {
                    @if let Some((attempt, failure, delivery)) = mishap.attempt {
                        "attempt " (attempt) ", " code { (failure.name()) } ", "
                        code { (delivery.name()) } ", " (mishap.then)
                    } @else {
                        (mishap.phase.name()) ", " (mishap.then)
                    }
                }
            }
            td { (request(&mishap.method, &mishap.path, &mishap.id)) }
        }
    }
}

fn settings(about: &About) -> Markup {
    html! {
        section aria-labelledby="about" {
            h2 #about { "This proxy" }
            dl .pairs .facts {
                div { dt { "Version" } dd #version { (about.version) } }
                div { dt { "Driver" } dd #driver { (about.driver) } }
                div { dt { "Workers" } dd #workers { (about.workers) } }
                div { dt { "Listens on" } dd { (about.listen) } }
            }
            details {
                summary { (about.settings.len()) " settings as they take effect" }
                table .settings {
                    tbody {
                        @for (name, value) in &about.settings {
                            tr {
                                th scope="row" { (name) }
                                td { (foreign(value, CAUSE_CHARS_MAX)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
