//! The page for operators: it says what has happened, hostile requests are text on it, and it stays small.
//! `page_in_a_browser` has what it looks like there.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::support::net::{affordable, eventually};
use crate::support::{
    Act, Browser, CANARY, Client, Origin, Proxy, act, answers, assert_no_secret, closes, get,
    look_at, post,
};

/// For a proxy that has the page.
pub const ADMIN: (&str, &str) = ("ADMIN_PORT", "0");
/// However many exchanges there are, and whatever their paths are made of.
const PAGE_BYTES_MAX: usize = 256 << 10;

/// The page of the admin listener there, which has no elements but those that it should have.
#[track_caller]
pub fn page(admin: SocketAddr) -> String {
    let response = Client::connect_to(admin).exchange(look_at("/"));
    assert_eq!(response.status(), 200);
    let page = response.text();
    assert!(page.len() < PAGE_BYTES_MAX, "{} bytes", page.len());
    page
}

/// The number in the element with this id.
#[track_caller]
pub fn number(page: &str, id: &str) -> u64 {
    let element = page.split_once(&format!(" id=\"{id}\">"));
    let (_, rest) = element.unwrap_or_else(|| panic!("no {id}: {page}"));
    let text = rest.split('<').next().unwrap();
    let digits: String = text.chars().filter(|char| *char != '\u{202f}').collect();
    digits
        .parse()
        .unwrap_or_else(|_| panic!("{id} is {text:?}"))
}

/// The sums of the two columns of the distribution.
fn began(page: &str) -> [u64; 2] {
    let (_, times) = page.split_once("id=\"headers\"").unwrap();
    let (times, _) = times.split_once("</table>").unwrap();
    let cells = times.split("<td class=\"number\">").skip(1);
    let numbers = cells.map(|cell| cell.split('<').next().unwrap().parse::<u64>().unwrap());
    let numbers: Vec<_> = numbers.collect();
    [0, 1].map(|column| numbers.iter().skip(column).step_by(2).sum())
}

/// Begins a response and leaves it at that.
fn streams() -> Act {
    act(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        peer.is_closed();
    })
}

/// What the next test makes happen.
const HAPPENED: [(&str, u64); 25] = [
    ("requests", 8),
    ("rescued", 2),
    ("exhausted", 1),
    ("possibly-doubled", 3),
    ("in-flight", 3),
    ("exchanges-answered", 3),
    ("exchanges-rescued", 2),
    ("exchanges-exhausted", 1),
    ("exchanges-refused", 1),
    ("exchanges-client_left", 1),
    ("exchanges-aborted", 0),
    ("refusals-method_not_allowed", 1),
    ("refusals-upstream_request_error", 1),
    ("left-header", 1),
    ("failed-closed-acked", 4),
    ("failed-header_timeout-acked", 0),
    ("phase-relay", 2),
    ("phase-receiving", 1),
    ("phase-header", 0),
    ("attempts", 12),
    ("replays", 3),
    ("connects", 12),
    ("connects-failed", 0),
    ("connects-abandoned", 0),
    ("panics", 0),
];

#[test]
fn its_numbers_are_what_has_happened() {
    // Each on a connection of its own.
    let answer = || answers("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    let rescue = || [closes(), answer()];
    let exhaust = || [closes(), closes()];
    let acts = [answer(), answer(), answer()].into_iter();
    let acts = acts.chain(rescue()).chain(rescue()).chain(exhaust());
    let left = act(|peer| {
        peer.request();
        peer.is_closed();
    });
    let origin = Origin::plays(acts.chain([left, streams(), streams()]));
    let proxy = Proxy::start(&origin, &[ADMIN]);
    for status in [200, 200, 200, 200, 200, 502] {
        let response = Client::connect(&proxy).exchange(post("/v1", b"{}"));
        assert_eq!(response.status(), status);
    }
    let refused = "TRACE / HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(Client::connect(&proxy).exchange(refused).status(), 405);
    let mut leaving = Client::connect(&proxy);
    leaving.send(get("/v1"));
    origin.request(10);
    leaving.leave();
    proxy.ended(8);
    let mut streaming = [Client::connect(&proxy), Client::connect(&proxy)];
    for client in &mut streaming {
        client.send(get("/v1"));
        client.head();
        client.receive_chunked("first");
    }
    let mut sending = Client::connect(&proxy);
    sending.send("POST /v1/uploads HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n12");
    let counted = || number(&page(proxy.admin()), "in-flight") == 3;
    eventually("all three are in flight", counted);

    let page = page(proxy.admin());
    for (id, expected) in HAPPENED {
        assert_eq!(number(&page, id), expected, "{id}");
    }
    assert!(page.contains("<h2 id=\"verdict\">Not all is well"));
    let cause = ">the upstream closed the connection without a response<";
    assert_eq!(page.matches(cause).count(), 4);
    let named = "attempt 1, <code>closed</code>, <code>acked</code>, sent again<";
    assert_eq!(page.matches(named).count(), 3);
    // By first attempts, and by later ones.
    assert_eq!(began(&page), [5, 2]);
    assert!(page.contains("RESPONSE_HEADER_TIMEOUT_SECONDS, 30\u{202f}s<"));
    let driver = if proxy.text().contains("on io_uring") {
        "io_uring"
    } else {
        "epoll"
    };
    for (id, text) in [
        ("driver", driver),
        ("version", env!("CARGO_PKG_VERSION")),
        ("workers", "2"),
    ] {
        assert!(page.contains(&format!(" id=\"{id}\">{text}<")), "{id}");
    }
    for mut client in streaming {
        client.reset();
    }
    sending.leave();
    proxy.ended(11);
}

#[test]
fn a_proxy_that_nobody_has_used_says_how_to() {
    let origin = Origin::plays([]);
    for (path, version) in [("", "/v1"), ("/v1", "")] {
        let proxy = Proxy::start_at(&format!("{}{path}", origin.url()), &[ADMIN]);
        let page = page(proxy.admin());
        assert!(page.contains("<h2 id=\"verdict\">Ready"));
        let hint = format!("curl http://{}{version}/models<", proxy.addr);
        assert!(page.contains(&hint), "{page}");
        assert_eq!(number(&page, "requests"), 0);
    }
}

#[test]
fn it_shows_no_secret() {
    let origin = Origin::plays([closes(), closes()]);
    let (key, token) = (format!("key-{CANARY}"), format!("token-{CANARY}"));
    let secrets = [("UPSTREAM_API_KEY", &*key), ("PROXY_ACCESS_TOKEN", &*token)];
    let proxy = Proxy::start(&origin, &[&secrets[..], &[ADMIN]].concat());
    let request = format!(
        "POST /v1?key={CANARY} HTTP/1.1\r\nHost: h\r\nx-api-key: {token}\r\nCookie: {CANARY}\r\n\
         Content-Length: 16\r\n\r\n{CANARY}"
    );
    assert_eq!(Client::connect(&proxy).exchange(request).status(), 502);
    let page = page(proxy.admin());
    assert_no_secret(&page);
    for name in ["UPSTREAM_API_KEY", "PROXY_ACCESS_TOKEN"] {
        let masked = format!("{name}</th><td><bdi>********</bdi>");
        assert!(page.contains(&masked), "{page}");
    }
    proxy.ended(1);
}

/// Base64 by RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let three = |bytes: &[u8]| {
        let value = (0..3).fold(0, |value, at| {
            value << 8 | u32::from(*bytes.get(at).unwrap_or(&0))
        });
        let digit = |at: usize| match at <= bytes.len() {
            true => char::from(ALPHABET[value as usize >> (18 - 6 * at) & 63]),
            false => '=',
        };
        [digit(0), digit(1), digit(2), digit(3)]
    };
    bytes.chunks(3).flat_map(three).collect()
}

#[test]
fn a_browser_is_told_to_run_and_fetch_nothing_but_what_is_on_it() {
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[ADMIN]);
    let response = proxy.asked("/");
    let (page, field) = (response.text(), |name| response.head.field(name).unwrap());
    let policy = field("content-security-policy");
    for (element, directive) in [("style", "style-src"), ("script", "script-src")] {
        let (start, end) = (format!("<{element}>"), format!("</{element}>"));
        let parts: Vec<_> = page.split(&start).collect();
        assert_eq!(parts.len(), 2, "{element}s");
        let text = parts[1].split(&end).next().unwrap();
        let hash = base64(&Sha256::digest(text));
        let expected = format!("{directive} 'sha256-{hash}'; ");
        assert!(policy.contains(&expected), "no {expected} in {policy}");
    }
    assert!(policy.starts_with("default-src 'none'; connect-src 'self'; "));
    assert!(!policy.contains("unsafe"));
    assert_eq!(field("cache-control"), "no-store");
    assert_eq!(field("content-type"), "text/html; charset=utf-8");
    for outside in [" src=", "url(", "@import", " style=", "https://"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

/// Paths that would be more than text where they are not escaped.
pub const HOSTILE: [&str; 5] = [
    "/<script>document.body.dataset.owned=1</script>",
    "/\"><img/src=x/onerror=document.body.dataset.owned=1>",
    "/\"onmouseover=document.body.dataset.owned=1/x=\"",
    "/</bdi></td></table></main><svg/onload=document.body.dataset.owned=1>",
    "/\u{202e}\u{2066}\u{200b}\u{85}&lt;script&gt;",
];

/// Each hostile path fails twice, and streams.
pub fn hostile() -> (Origin, Proxy, Vec<Client>) {
    let acts = HOSTILE.iter().flat_map(|_| [closes(), closes(), streams()]);
    let origin = Origin::plays(acts);
    let proxy = Proxy::start(&origin, &[ADMIN]);
    let mut clients = Vec::new();
    for path in HOSTILE {
        assert_eq!(Client::connect(&proxy).exchange(get(path)).status(), 502);
        let mut client = Client::connect(&proxy);
        client.send(get(path));
        client.head();
        client.receive_chunked("first");
        clients.push(client);
    }
    (origin, proxy, clients)
}

#[test]
fn hostile_paths_are_text_on_it() {
    let (_origin, proxy, clients) = hostile();
    let page = page(proxy.admin());
    assert_eq!(
        page.matches("&lt;script&gt;document.body.dataset.owned=1&lt;/script&gt;")
            .count(),
        3
    );
    assert_eq!(
        page.matches("\\u{202e}\\u{2066}\\u{200b}\\u{85}&amp;lt;script")
            .count(),
        3
    );
    assert_eq!(page.matches("<script").count(), 1);
    assert_eq!(page.matches("</main>").count(), 1);
    let unseen =
        |char: char| char.is_control() && char != '\n' || "\u{202e}\u{2066}\u{200b}".contains(char);
    assert!(!page.contains(unseen));
    for tag in ["<img", "<svg/", "\"onmouseover"] {
        assert!(!page.contains(tag), "{tag}");
    }
    for mut client in clients {
        client.reset();
    }
    proxy.ended(2 * HOSTILE.len());
}

/// Takes so many connections with a request each, begins a response, and holds them all.
fn hold(listener: TcpListener, count: usize) -> Vec<TcpStream> {
    let taken = listener.incoming().take(count).map(|tcp| {
        let (mut tcp, mut request) = (tcp.unwrap(), Vec::new());
        while !request.ends_with(b"\r\n\r\n") {
            let mut more = [0; 1024];
            let read = tcp.read(&mut more).unwrap();
            assert!(read > 0, "half a request");
            request.extend_from_slice(&more[..read]);
        }
        tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
            .unwrap();
        tcp
    });
    taken.collect()
}

#[test]
fn it_is_right_and_small_and_quick_with_no_stream_and_with_thousands() {
    let many = affordable(2 * 5_000) / 2;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let proxy = Proxy::start_at(&url, &[ADMIN, ("RESPONSE_HEADER_TIMEOUT_SECONDS", "300")]);
    let path = "/".to_owned() + &"\"".repeat(1_000); // none takes more room
    let (mut clients, mut held): (Vec<Client>, _) = (Vec::new(), Vec::new());
    for count in [0, 10, many] {
        let fresh = count - clients.len();
        let listener = listener.try_clone().unwrap();
        let holding = thread::spawn(move || hold(listener, fresh));
        clients.extend((0..fresh).map(|_| {
            let mut client = Client::connect(&proxy);
            client.send(get(&path));
            client
        }));
        held.extend(holding.join().unwrap());
        let all = count as u64;
        let relayed = || number(&page(proxy.admin()), "phase-relay") == all;
        eventually("all responses have begun", relayed);

        let start = Instant::now();
        let page = page(proxy.admin());
        let took = start.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}"); // two busy cores, no optimisation
        assert_eq!(number(&page, "in-flight"), all);
        assert_eq!(page.matches("<td>relay").count(), count.min(50));
        assert_eq!(page.contains("id=\"more\""), count > 50);
        println!("{count} streams: {} bytes in {took:?}", page.len());
        if let Some(browser) = Browser::find() {
            let dom = browser.dom(&format!("http://{}/", proxy.admin()), 3_000);
            assert_eq!(number(&dom, "in-flight"), all);
            assert_eq!(dom.matches("<td>relay").count(), count.min(50));
        }
    }
    assert!(many < 5_000 || page(proxy.admin()).contains(">and 4\u{202f}950 more<"));
    for mut client in clients {
        client.reset();
    }
    proxy.ended(many);
}
