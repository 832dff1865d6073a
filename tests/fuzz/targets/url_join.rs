//! A request-target behind the path of a base URL: it stays below, and both are kept as written.
#![no_main]
use codex_reset_proxy::config::Config;
use codex_reset_proxy::downstream::request::check;
use codex_reset_proxy::http1::head::with_request;
use codex_reset_proxy::http1::target::{climbs, origin_form};
use fuzz::{head, target};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (Some(path), Some(written)) = (parts.next(), parts.next()) else {
        return;
    };
    let origin = origin_form(written);
    assert_eq!(origin, target::origin_form(written));
    if let Some(origin) = origin {
        let climbs = climbs(origin);
        assert!(climbs || !target::leaves("", origin), "not seen to climb");
        assert!(!climbs || target::has_dot_segments(origin), "seen to climb");
    }

    let Ok(path) = str::from_utf8(path) else {
        return;
    };
    let lookup = |name: &str| {
        (name == "UPSTREAM_BASE_URL").then(|| format!("http://up.example{path}").into())
    };
    let Ok(config) = Config::from_lookup(lookup) else {
        return;
    };
    // A base URL that goes on with a name or a port is the business of another target.
    if config.upstream.authority != "up.example" {
        return;
    }
    let kept = path.trim().trim_end_matches('/');
    assert_eq!(config.upstream.path, kept);
    let request = [b"GET ", written, b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
    let forwarded = with_request(&request, |head| check(head, &config));
    if let Ok(Ok(forwarded)) = forwarded {
        let written = [&forwarded.head[..], b"\r\n"].concat();
        let (line, _) = head::parse(&written).expect("what goes up is well-formed");
        let origin = origin.expect("only what an origin can be asked goes up");
        let whole = [b"GET ", kept.as_bytes(), origin, b" HTTP/1.1"].concat();
        assert_eq!(line, whole);
        let (_, joined, _) = head::request_line(line).expect("three words");
        assert!(joined == b"*" || joined.starts_with(b"/"));
        assert!(kept.is_empty() || !target::leaves(kept, origin));
    }
});
