//! An arbitrary environment: no panic, faults that name the variables at fault, no secret shown.
#![no_main]
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use codex_reset_proxy::config::{Config, Fault};
use libfuzzer_sys::fuzz_target;

/// Stands in secret values, and wherever a value has a `$`.
const SECRET: &str = "canary";
const BASE_URL: &str = "UPSTREAM_BASE_URL";
const OUTBOUND: &str = "OUTBOUND_PROXY";
const YEAR: Duration = Duration::from_secs(31_536_000);

type Environment = BTreeMap<String, Vec<u8>>;

fuzz_target!(|data: &[u8]| {
    let mut environment = environment(data);
    for _ in 0..=environment.len() + 1 {
        let faults = match read(&environment) {
            Ok(config) => {
                // One that is accepted has neither userinfo nor a query, and is shown.
                let shown = holds_secret(environment.get(BASE_URL).expect("it is required"));
                return sound(&config, |text| !shown && leaks(&environment, text));
            }
            Err(faults) => faults,
        };
        assert!(!faults.is_empty());
        let faults: Vec<String> = faults.iter().map(Fault::to_string).collect();
        for fault in &faults {
            assert!(!leaks(&environment, fault), "{fault}");
        }
        for fault in faults {
            assert!(!fault.contains(char::is_control), "{fault:?}");
            let name_end = fault.find(['=', ' ']).expect("a name and more");
            let name = &fault[..name_end];
            match name == BASE_URL {
                // Unset is a fault as well.
                true => drop(environment.insert(name.to_owned(), b"http://up.example".to_vec())),
                false => assert!(environment.remove(name).is_some(), "{fault} is not set"),
            }
        }
    }
    panic!("without the variables at fault there are faults still");
});

/// What /proc/PID/environ looks like: `NAME=value`, parted by NUL, which no value can hold.
fn environment(data: &[u8]) -> Environment {
    let mut environment = Environment::new();
    for variable in data.split(|byte| *byte == 0) {
        let Some(name_end) = variable.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let name = String::from_utf8_lossy(&variable[..name_end]).into_owned();
        let value = &variable[name_end + 1..];
        let mut parts: Vec<&[u8]> = value.split(|byte| *byte == b'$').collect();
        if is_secret(&name) && value.len() > 1 {
            parts = value.chunks(value.len().div_ceil(2)).collect();
        }
        environment.insert(name, parts.join(SECRET.as_bytes()));
    }
    environment
}

fn read(environment: &Environment) -> Result<Config, Vec<Fault>> {
    Config::from_lookup(|name| environment.get(name).cloned().map(OsString::from_vec))
}

fn is_secret(name: &str) -> bool {
    matches!(name, "UPSTREAM_API_KEY" | "PROXY_ACCESS_TOKEN")
}

/// Whether `text` shows a secret: one that is in no variable that may be shown.
fn leaks(environment: &Environment, text: &str) -> bool {
    let may_be_shown = |(name, value): (&String, &Vec<u8>)| match name.as_str() {
        // Neither what may be userinfo nor what may be a query is shown.
        BASE_URL | OUTBOUND => {
            let start = value.iter().rposition(|byte| *byte == b'@').unwrap_or(0);
            let end = value.iter().position(|byte| b"?#".contains(byte));
            let seen = value.get(start..end.unwrap_or(value.len()));
            seen.is_some_and(holds_secret)
        }
        name => !is_secret(name) && holds_secret(value),
    };
    holds_secret(text.as_bytes()) && !environment.iter().any(may_be_shown)
}

fn holds_secret(text: &[u8]) -> bool {
    let mut windows = text.windows(SECRET.len());
    windows.any(|window| window == SECRET.as_bytes())
}

/// What every configuration that was accepted promises.
fn sound(config: &Config, leaks: impl Fn(&str) -> bool) {
    let lines = config
        .effective()
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"));
    for line in lines.chain(config.warnings()) {
        assert!(!leaks(&line), "{line}");
    }
    let upstream = &config.upstream;
    for part in [&upstream.host, &upstream.authority, &upstream.path] {
        assert!(!part.contains(|c: char| c.is_whitespace() || c.is_control() || "?#".contains(c)));
    }
    assert!(!upstream.host.contains('@') && !upstream.authority.contains('@'));
    assert!(!upstream.host.is_empty() && upstream.port > 0);
    assert!(upstream.authority.contains(&upstream.host));
    assert!(upstream.path.is_empty() || upstream.path.starts_with('/'));
    if let Some(credential) = &upstream.credential {
        assert!(
            credential
                .name
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b':')
        );
        let value = credential.value.expose();
        assert!(value.iter().all(|byte| *byte >= b' ' && *byte != 0x7f));
        assert_eq!(value, value.trim_ascii());
    }
    if let Some(proxy) = &config.outbound {
        assert!(!proxy.host.is_empty() && !proxy.host.contains('@') && proxy.port > 0);
    }
    let attempts = &config.attempts;
    assert!(attempts.max >= 1 && config.workers >= 1 && config.client.body_bytes_max >= 1);
    for limit in [
        attempts.connect_timeout,
        attempts.header_timeout,
        attempts.pool_timeout,
        attempts.write_timeout,
        config.client.body_timeout,
        config.client.header_timeout,
        config.client.idle_timeout,
        config.client.write_timeout,
        upstream.idle_timeout,
    ] {
        assert!(limit > Duration::ZERO && limit <= YEAR);
    }
}
