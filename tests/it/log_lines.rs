//! What a line of the log looks like, to people and to machines, whatever a client puts into it.
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{
    Act, Client, OK, Origin, Proxy, RESCUE, act, answers, closes, get, hangs, post,
};

/// Its connection is not used again.
const LAST: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";

/// One exchange of each kind, one after the other; all have the same path.
fn plays_everything(settings: &[(&str, &str)]) -> Proxy {
    let breaks_off: Act = act(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok");
        peer.close();
    });
    let origin = Origin::plays([
        answers(LAST),
        hangs(),
        answers(LAST),
        closes(),
        closes(),
        breaks_off,
        hangs(),
    ]);
    let proxy = Proxy::start(&origin, &[&RESCUE, settings].concat());
    for number in 1..=3 {
        Client::connect(&proxy).exchange(post("/v1/responses", b"{}"));
        proxy.ended(number);
    }
    let mut client = Client::connect(&proxy);
    client.send(post("/v1/responses", b"{}"));
    assert!(client.try_response("POST").is_err(), "it is broken off");
    proxy.ended(4);
    Client::connect(&proxy).exchange("TRACE /v1/responses HTTP/1.1\r\nHost: h\r\n\r\n");
    proxy.ended(5);
    let mut client = Client::connect(&proxy);
    client.send(post("/v1/responses", b"{}"));
    origin.request(7);
    client.leave();
    proxy.ended(OUTCOMES.len());
    proxy
}

const OUTCOMES: [(&str, &str, u64); 6] = [
    ("answered", "200", 1),
    ("rescued", "200", 2),
    ("exhausted", "502", 2),
    ("aborted", "200", 1),
    ("refused", "405", 0),
    ("client_left", "-", 1),
];

/// Whether `text` is a date and a time as RFC 3339 has them, in UTC, with so many decimals.
fn is_time(text: &str, decimals: usize) -> bool {
    let shape = format!("dddd-dd-ddTdd:dd:dd.{}Z", "d".repeat(decimals));
    let is_as = |(char, shape): (char, char)| match shape {
        'd' => char.is_ascii_digit(),
        other => char == other,
    };
    text.len() == shape.len() && text.chars().zip(shape.chars()).all(is_as)
}

#[test]
fn a_line_for_people_has_columns_that_stay_where_they_are() {
    let proxy = plays_everything(&[]);
    let lines = proxy.ended(OUTCOMES.len());
    for (line, (outcome, status, attempts)) in lines.iter().zip(OUTCOMES) {
        let method = if status == "405" { "TRACE" } else { "POST" };
        let (time, rest) = line.split_at(24);
        assert!(is_time(time, 3), "{line}");
        let outcome = outcome.replace('_', " ");
        let columns = format!(" INFO  {outcome:11} {status:>3} {method:4} /v1/responses  head ");
        let rest = rest.strip_prefix(columns.as_str()).expect(line);
        let names: Vec<_> = rest.split_whitespace().skip(1).step_by(2).collect();
        let expected = match attempts {
            1 => &["total", "up", "down"][..],
            _ => &["total", "up", "down", "attempts"],
        };
        assert_eq!(names[..expected.len()], *expected, "{line}");
        assert!(names[expected.len()].starts_with("id="), "{line}");
        if attempts != 1 {
            assert!(
                line.contains(&format!("  attempts {attempts}  id=")),
                "{line}"
            );
        }
    }
    // TRACE is longer than most methods, and moves what follows it.
    for name in ["  head ", "  total ", "  up ", "  down "] {
        let posts = lines.iter().filter(|line| line.contains(" POST "));
        let places: BTreeSet<_> = posts.map(|line| line.find(name)).collect();
        assert_eq!(places.len(), 1, "{name}: {lines:#?}");
    }
    let line = lines.last().unwrap();
    assert!(line.contains("  head      -  total "), "{line}");
    assert!(line.ends_with("  waiting for the response"), "{line}");
}

#[test]
fn the_usual_line_fits_160_columns_behind_the_name_of_a_container() {
    let proxy = plays_everything(&[]);
    let width = "codex-reset-proxy-1  | ".len() + proxy.ended(1)[0].len();
    assert!(width <= 160, "{width}");
}

/// Runs everything, and reads every line that was written.
fn objects(proxy: &Proxy) -> Vec<Value> {
    let lines = proxy.log().into_iter();
    let read = |line: String| serde_json::from_str(&line).expect(&line);
    lines.map(read).collect()
}

#[test]
fn a_line_for_machines_is_an_object_whose_numbers_are_numbers() {
    let proxy = plays_everything(&[("LOG_FORMAT", "json")]);
    let all = objects(&proxy);
    for object in &all {
        assert!(
            is_time(object["timestamp"].as_str().unwrap(), 6),
            "{object}"
        );
        assert!(object["message"].is_string(), "{object}");
        let level = object["level"].as_str().unwrap();
        assert!(["DEBUG", "INFO", "WARN"].contains(&level), "{object}");
    }
    let exchanges = all.iter().filter(|object| object["message"] == "exchange");
    for (object, (outcome, status, attempts)) in exchanges.zip(OUTCOMES) {
        assert_eq!(object["outcome"], outcome, "{object}");
        assert_eq!(object["status"].as_u64(), status.parse().ok(), "{object}");
        assert_eq!(object["attempts"], attempts, "{object}");
        assert_eq!(object["path"], "/v1/responses");
        assert!(object["request_bytes"].is_u64(), "{object}");
        assert!(object["response_bytes"].is_u64(), "{object}");
        assert!(object["total_ms"].is_f64(), "{object}");
        assert_eq!(object["header_ms"].is_f64(), status == "200", "{object}");
        assert_eq!(object["id"].as_str().unwrap().len(), 16, "{object}");
        let has_detail = !matches!(outcome, "answered" | "rescued");
        assert_eq!(object["detail"].is_string(), has_detail, "{object}");
    }
    let failed = all
        .iter()
        .filter(|object| object["message"] == "attempt failed");
    let failed: Vec<_> = failed.collect();
    assert_eq!(failed.len(), 3, "{failed:?}");
    for (object, attempt) in failed.into_iter().zip([1, 1, 2]) {
        assert_eq!(object["level"], "WARN", "{object}");
        assert_eq!(object["attempt"], attempt, "{object}");
        assert_eq!(object["again"], attempt == 1, "{object}");
        assert_eq!(object["phase"], "header", "{object}");
        assert!(object["ms"].is_f64(), "{object}");
        assert!(object["cause"].is_string(), "{object}");
    }
}

#[test]
fn the_readme_explains_every_field_of_every_line_of_an_exchange() {
    let proxy = plays_everything(&[("LOG_FORMAT", "json")]);
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let readme = readme.unwrap();
    let (_, logs) = readme.split_once("\n## Logs\n").unwrap();
    let (logs, _) = logs.split_once("\n## ").unwrap();
    let rows = logs.lines().filter_map(|line| line.strip_prefix("| `"));
    let explained: BTreeSet<_> = rows
        .flat_map(|row| row.split('|').next().unwrap().split('`'))
        .collect();
    for object in objects(&proxy)
        .iter()
        .filter(|object| object["id"].is_string())
    {
        for name in object.as_object().unwrap().keys() {
            assert!(explained.contains(name.as_str()), "{name} is not explained");
        }
    }
}

/// What must not reach a terminal, or what reads lines, as it is: it ends lines, commands, turns
/// text around or cannot be seen.
fn is_treacherous(char: char) -> bool {
    matches!(char,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{a0}' | '\u{ad}' | '\u{61c}' | '\u{180e}'
        | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{206f}'
        | '\u{3000}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Paths with every byte alone and every treacherous character in front of what looks like a line.
fn hostile_paths() -> Vec<Vec<u8>> {
    let bytes = (0..=u8::MAX).filter(|byte| !b"?#".contains(byte));
    let chars = (0x80..=0xe_007f)
        .filter_map(char::from_u32)
        .filter(|char| is_treacherous(*char));
    let forged = "2026-03-01T12:00:00.000Z\u{a0}INFO\u{a0}\u{a0}answered\u{2003}200";
    let with_char = |char| format!("/v1/{char}{forged}\"\\{char}").into_bytes();
    let with_byte = |byte| [b"/v1/".as_slice(), &[byte], b"[31m"].concat();
    bytes.map(with_byte).chain(chars.map(with_char)).collect()
}

#[test]
fn no_path_forges_a_line_or_commands_a_terminal() {
    let paths = hostile_paths();
    for format in ["text", "json"] {
        let origin = Origin::serves(1, |peer| {
            while peer.next_request().is_some() {
                peer.send(OK);
            }
        });
        let settings = [
            ("LOG_FORMAT", format),
            ("LOG_LEVEL", "INFO"),
            ("WORKERS", "1"),
        ];
        let proxy = Proxy::start(&origin, &settings);
        let mut forwarded = 0;
        let mut client = Client::connect(&proxy);
        for path in &paths {
            client.send([b"GET ", path.as_slice(), b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat());
            match client.response().status() {
                200 => forwarded += 1,
                _ => client = Client::connect(&proxy),
            }
        }
        // Controls, the space and DEL cannot stand in a request-target.
        assert_eq!(forwarded, paths.len() - 34);
        let lines = proxy.ended(paths.len());
        assert_eq!(lines.len(), paths.len());
        let start = proxy.log().len() - lines.len();
        assert_eq!(proxy.log()[start..], lines, "other lines");
        for (line, path) in lines.iter().zip(&paths) {
            assert!(!line.contains(is_treacherous), "{line:?}");
            let path = String::from_utf8_lossy(path);
            let shown = match format {
                "text" => is_time(&line[..24], 3).then_some(path.clone()),
                _ => serde_json::from_str(line).ok().and_then(|line: Value| {
                    line["path"].as_str().map(|path| path.to_owned().into())
                }),
            };
            let refused = line.contains("refused");
            assert!(refused || shown == Some(path), "{line}");
        }
    }
}

#[test]
fn a_method_of_any_length_makes_no_long_line() {
    let origin = Origin::plays([answers(OK)]);
    let proxy = Proxy::start(&origin, &[]);
    let request = get("/v1").replacen("GET", &"X".repeat(20_000), 1);
    assert_eq!(Client::connect(&proxy).exchange(request).status(), 200);
    let line = proxy.ended(1).remove(0);
    assert!(line.len() < 1000, "{} bytes", line.len());
}

/// What a rescue writes to a terminal.
fn on_terminal(settings: &[(&str, &str)]) -> String {
    let origin = Origin::plays([hangs(), answers(OK)]);
    let proxy = Proxy::start_on_terminal(&origin, &[&RESCUE, settings].concat());
    Client::connect(&proxy).exchange(post("/v1/responses", b"{}"));
    proxy.ended(1);
    proxy.text()
}

#[test]
fn only_what_should_catch_the_eye_is_coloured_and_only_on_a_terminal_that_may_be() {
    for settings in [&[][..], &[("NO_COLOR", "")]] {
        let text = on_terminal(settings);
        let (warn, rescued) = ("\x1b[33mWARN\x1b[0m ", " \x1b[32mrescued\x1b[0m  ");
        assert!(text.contains(warn) && text.contains(rescued), "{text:?}");
        let plain = text.replace(warn, "").replace(rescued, "");
        assert!(!plain.contains('\x1b'), "{plain:?}");
    }
    for settings in [("NO_COLOR", "1"), ("LOG_FORMAT", "json")] {
        let text = on_terminal(&[settings]);
        assert!(!text.contains('\x1b'), "{text:?}");
    }
    let text = plays_everything(&[]).text();
    assert!(!text.contains('\x1b'), "{text:?}");
}
