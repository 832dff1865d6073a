//! The page for operators in a real browser, where there is one: live, and no hostile path is more than
//! text.
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::page::{ADMIN, HOSTILE, hostile, number, page};
use crate::support::net::{eventually, within};
use crate::support::{Browser, Client, OK, Origin, Peer, Proxy, get, look_at};

/// Answers every request, on any number of connections.
fn answering() -> Origin {
    Origin::serves(usize::MAX, |peer| {
        while peer.next_whole_request().is_some() {
            peer.send(OK);
        }
    })
}

/// What a browser asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// For the document, because a person or `meta refresh` wants it.
    Anew,
    /// From the script of the document, for the so many-th time.
    Again(usize),
}

/// A server with one page; no answer to `None`.
fn shows(answer: impl Fn(Asks) -> Option<Vec<u8>> + Send + Sync + 'static) -> Origin {
    let again = AtomicUsize::new(0);
    Origin::serves(usize::MAX, move |peer: &mut Peer| {
        while let Some(request) = peer.next_whole_request() {
            assert_eq!(request.head.line(), "GET / HTTP/1.1");
            let asks = match request.head.field("sec-fetch-dest").as_deref() {
                Some("document") => Asks::Anew,
                _ => Asks::Again(again.fetch_add(1, Ordering::Relaxed) + 1),
            };
            match answer(asks) {
                Some(response) => drop(peer.send_if_taken(&response)),
                None => return peer.close(),
            }
        }
    })
}

/// A response of our own with the page.
fn unguarded(page: &str) -> Vec<u8> {
    let length = page.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {length}\r\n\r\n"
    );
    (head + page).into_bytes()
}

/// The response of the admin listener as it is, policy included.
fn guarded(admin: SocketAddr) -> Vec<u8> {
    let response = Client::connect_to(admin).exchange(look_at("/"));
    [response.head.0, response.body].concat()
}

#[test]
fn a_browser_sees_the_numbers_change_without_loading_it_again() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let origin = answering();
    let proxy = Proxy::start(&origin, &[ADMIN]);
    let (clients, admin) = (proxy.addr, proxy.admin());
    let (saw, seen) = mpsc::channel();
    let saw = Mutex::new(saw);
    let relay = shows(move |asks| {
        saw.lock().unwrap().send(asks).unwrap();
        if let Asks::Again(times) = asks {
            Client::connect_to(clients).exchange(get("/v1"));
            let counted = || number(&page(admin), "exchanges-answered") == times as u64;
            eventually("it is counted", counted);
        }
        Some(guarded(admin))
    });
    let dom = browser.dom(&relay.url(), 5_000);
    drop(relay);
    let asked: Vec<Asks> = seen.iter().collect();
    assert!(asked[0] == Asks::Anew && asked[1..].iter().all(|asks| *asks != Asks::Anew));
    let shown = number(&dom, "exchanges-answered");
    assert!(
        (1..asked.len() as u64).contains(&shown),
        "{shown} of {}",
        asked.len()
    );
    assert!(dom.contains("<h2 id=\"verdict\">All is well"));
    assert!(dom.contains("<title>All is well · codex-reset-proxy</title>"));
    assert!(dom.contains("<span role=\"status\">live</span>"));
}

#[test]
fn what_a_person_has_opened_and_scrolled_to_stays() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let origin = answering();
    let proxy = Proxy::start(&origin, &[ADMIN]);
    let (clients, admin) = (proxy.addr, proxy.admin());
    let person = "<script>document.querySelector('details').open = true; scrollTo(0, 321); \
                  setInterval(() => document.body.dataset.at = scrollY, 100);</script></body>";
    let relay = shows(move |asks| {
        if asks != Asks::Anew {
            Client::connect_to(clients).exchange(get("/v1"));
        }
        Some(unguarded(&page(admin).replace("</body>", person)))
    });
    let dom = browser.dom(&relay.url(), 5_000);
    assert!(number(&dom, "requests") > 0);
    assert_eq!(dom.matches("<details open=\"\">").count(), 1);
    assert!(dom.contains("data-at=\"321\""), "{dom}");
}

#[test]
fn what_a_person_has_selected_stays() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let origin = answering();
    let proxy = Proxy::start(&origin, &[ADMIN]);
    let (clients, admin) = (proxy.addr, proxy.admin());
    let person = "<script>getSelection().selectAllChildren(document.querySelector('main'));\
                  </script></body>";
    let relay = shows(move |asks| {
        if asks != Asks::Anew {
            Client::connect_to(clients).exchange(get("/v1"));
        }
        Some(unguarded(&page(admin).replace("</body>", person)))
    });
    let dom = browser.dom(&relay.url(), 5_000);
    assert_eq!(number(&dom, "requests"), 0);
    assert!(dom.contains("<span role=\"status\">held while text is selected</span>"));
    assert!(number(&page(admin), "requests") > 0);
}

/// A browser, where there is one, and a proxy that nobody has asked for anything.
fn before_anybody_asks() -> Option<(Browser, Origin, Proxy)> {
    let browser = Browser::find()?;
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[ADMIN]);
    Some((browser, origin, proxy))
}

#[test]
fn a_browser_asks_nothing_while_the_page_is_hidden() {
    let Some((browser, _origin, proxy)) = before_anybody_asks() else {
        return;
    };
    let admin = proxy.admin();
    let asked = Arc::new(AtomicUsize::new(0));
    for (shown_after_ms, is_asked) in [("1e9", false), ("3000", true)] {
        let tab = format!(
            "</title><script>let hidden = true; \
             Object.defineProperty(document, 'hidden', {{ get: () => hidden }}); \
             setTimeout(() => {{ hidden = false; \
             document.dispatchEvent(new Event('visibilitychange')); }}, {shown_after_ms})</script>"
        );
        let count = asked.clone();
        let relay = shows(move |asks| {
            count.fetch_add(usize::from(asks != Asks::Anew), Ordering::Relaxed);
            Some(unguarded(&page(admin).replace("</title>", &tab)))
        });
        browser.dom(&relay.url(), 8_000);
        assert_eq!(asked.load(Ordering::Relaxed) > 0, is_asked);
    }
}

#[test]
fn a_browser_says_how_long_ago_the_proxy_was_last_seen() {
    let Some((browser, _origin, proxy)) = before_anybody_asks() else {
        return;
    };
    let admin = proxy.admin();
    let relay = shows(move |asks| (asks == Asks::Anew).then(|| guarded(admin)));
    let dom = browser.dom(&relay.url(), 12_500);
    assert!(dom.contains("<body class=\"stale\">"), "{dom}");
    let (_, told) = dom
        .split_once("<span role=\"status\">no answer</span><span>, last seen ")
        .unwrap();
    let seconds: u64 = told.split(' ').next().unwrap().parse().unwrap();
    assert!((5..=13).contains(&seconds), "{seconds}");
}

#[test]
fn a_browser_asks_nothing_while_it_waits_for_an_answer() {
    let Some((browser, _origin, proxy)) = before_anybody_asks() else {
        return;
    };
    let admin = proxy.admin();
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, first) = (asked.clone(), Arc::new(AtomicUsize::new(0)));
    let came = first.clone();
    let relay = shows(move |asks| {
        if asks != Asks::Anew {
            count.fetch_add(1, Ordering::Relaxed);
            came.fetch_add(1, Ordering::Relaxed);
            // Longer than the pause between two questions; a second one would have come.
            within(Duration::from_secs(3), || count.load(Ordering::Relaxed) > 1);
        }
        Some(guarded(admin))
    });
    let open = browser.open(&relay.url(), false);
    eventually("it has asked", || first.load(Ordering::Relaxed) > 0);
    let again = within(Duration::from_secs(3), || asked.load(Ordering::Relaxed) > 1);
    drop(open);
    assert!(!again, "a second question before the answer to the first");
}

#[test]
fn a_browser_without_scripts_loads_it_again() {
    let Some((browser, _origin, proxy)) = before_anybody_asks() else {
        return;
    };
    let admin = proxy.admin();
    let loads = Arc::new(AtomicUsize::new(0));
    let count = loads.clone();
    let relay = shows(move |asks| {
        assert!(asks == Asks::Anew, "a script has asked");
        count.fetch_add(1, Ordering::Relaxed);
        Some(guarded(admin))
    });
    let _open = browser.open(&relay.url(), true);
    eventually("it is loaded twice", || loads.load(Ordering::Relaxed) > 1);
}

#[test]
fn it_fits_a_phone_with_everything_open() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let (_origin, proxy, clients) = hostile();
    let page = page(proxy.admin());
    let page = page.replace('&', "&amp;").replace('"', "&quot;");
    let frame = format!(
        "<!doctype html><link rel=icon href=data:,><title>empty</title>\
         <iframe width=360 height=640 sandbox=allow-same-origin srcdoc=\"{page}\"></iframe><script>\
         onload = () => {{ const page = frames[0].document, root = page.documentElement; \
         for (const part of page.querySelectorAll('details')) part.open = true; \
         document.title = page.title ? root.scrollWidth - root.clientWidth + ' too wide' : ''; }}</script>"
    );
    let relay = shows(move |_| Some(unguarded(&frame)));
    let dom = browser.dom(&relay.url(), 1_000);
    let (_, title) = dom.split_once("<title>").unwrap();
    assert_eq!(title.split_once("</title>").unwrap().0, "0 too wide");
    for mut client in clients {
        client.reset();
    }
    proxy.ended(2 * HOSTILE.len());
}

#[test]
fn no_hostile_path_runs_in_a_browser() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let (_origin, proxy, clients) = hostile();
    // Without the policy that would keep a script from running.
    let admin = proxy.admin();
    let relay = shows(move |_| Some(unguarded(&page(admin))));
    let dom = browser.dom(&relay.url(), 3_000);
    assert!(!dom.contains("data-owned"), "{dom}");
    assert!(
        !dom.contains("<img") && !dom.contains("<svg onload"),
        "{dom}"
    );
    assert!(dom.contains("&lt;script&gt;document.body"));
    for mut client in clients {
        client.reset();
    }
    proxy.ended(2 * HOSTILE.len());
}
