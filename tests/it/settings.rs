//! Settings as an operator meets them: the built binary, its exit codes, and the files that name them.
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Output};
use std::thread::JoinHandle;

const CANARY: &str = "canary-7b1f";

/// Runs the program with these variables and no others.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (*name, OsStr::new(value)))
        .collect();
    run_os(arguments, &variables)
}

fn run_os(arguments: &[&str], variables: &[(&str, &OsStr)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_codex-reset-proxy"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .expect("the binary was built")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

#[test]
fn bad_settings_stop_the_start_and_are_all_named_at_once() {
    let bad = [
        ("UPSTREAM_BASE_URL", "ftp://example.com"),
        ("PROXY_PORT", "tcp://10.0.0.1:8788"),
        ("LISTEN_HOST", "example.com"),
        ("UPSTREAM_MAX_ATTEMPTS", "0"),
        ("CONNECT_TIMEOUT_SECONDS", "nan"),
        ("WRITE_TIMEOUT_SECONDS", "1e400"),
        ("LOG_LEVEL", "LOUD"),
        ("OUTBOUND_PROXY", "ftp://proxy:3128"),
        ("ADMIN_PORT", "70000"),
    ];
    for arguments in [&[][..], &["--check"]] {
        let output = run(arguments, &bad);
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        let text = stderr(&output);
        assert_eq!(text.lines().count(), bad.len(), "{text}");
        for (name, value) in bad {
            let unshown = format!(": {name} is not a socks5://, ");
            let shown = format!(": {name}={value:?} ");
            let naming = text
                .lines()
                .filter(|line| line.contains(&shown) || line.contains(&unshown));
            assert_eq!(naming.count(), 1, "{name} in {text}");
        }
    }
}

#[test]
fn a_missing_base_url_is_said_so() {
    let output = run(&[], &[]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("UPSTREAM_BASE_URL is not set"), "{text}");
}

#[test]
fn a_fault_never_shows_a_secret() {
    let with_user = format!("https://user:{CANARY}@example.com/v1");
    let with_query = format!("https://example.com/v1?key={CANARY}");
    let broken = format!("{CANARY}\n{CANARY}");
    for variables in [
        [("UPSTREAM_BASE_URL", &*with_user), ("WORKERS", "x")],
        [("UPSTREAM_BASE_URL", &with_query), ("WORKERS", "x")],
        [
            ("UPSTREAM_API_KEY", &broken),
            ("PROXY_ACCESS_TOKEN", &broken),
        ],
        [
            ("OUTBOUND_PROXY", &with_user),
            ("UPSTREAM_API_KEY", &broken),
        ],
    ] {
        let output = run(&[], &variables);
        assert_eq!(output.status.code(), Some(2));
        let text = stderr(&output);
        assert!(!text.contains(CANARY), "{text}");
        assert!(text.contains(variables[0].0), "{text}");
        assert!(text.contains(variables[1].0), "{text}");
    }
}

#[test]
fn a_value_that_is_not_utf8_is_a_fault_like_any_other() {
    let bytes = OsString::from_vec([CANARY.as_bytes(), &[0xff, 0xfe]].concat());
    let names = [
        "UPSTREAM_BASE_URL",
        "UPSTREAM_API_KEY",
        "UPSTREAM_API_KEY_PREFIX",
        "WORKERS",
    ];
    let variables = names.map(|name| (name, bytes.as_os_str()));
    let output = run_os(&["--check"], &variables);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert_eq!(text.lines().count(), names.len(), "{text}");
    for name in names {
        assert!(
            text.contains(&format!(": {name} is not valid UTF-8")),
            "{text}"
        );
    }
    assert!(!text.contains(CANARY), "{text}");
}

#[test]
fn variables_of_other_programs_do_not_matter_whatever_their_bytes() {
    let bytes = OsString::from_vec(vec![0xff]);
    let variables = [
        ("UPSTREAM_BASE_URL", OsStr::new("http://127.0.0.1:9")),
        ("FOREIGN", &bytes),
        ("PROXY_PORT_8788_TCP", OsStr::new("tcp://10.0.0.1:8788")),
        ("UPSTREAM_API_KEY_HEADER_X", OsStr::new("x")),
    ];
    let output = run_os(&["--check"], &variables);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn check_prints_what_takes_effect_with_secrets_masked() {
    let output = run(
        &["--check"],
        &[
            ("UPSTREAM_BASE_URL", "https://api.example.com/v1/"),
            ("UPSTREAM_API_KEY", CANARY),
            ("UPSTREAM_API_KEY_HEADER", "x-api-key"),
            ("UPSTREAM_API_KEY_PREFIX", "Token"),
            ("PROXY_ACCESS_TOKEN", CANARY),
            ("PROXY_PORT", "9000"),
            ("LISTEN_HOST", "localhost"),
            ("RESPONSE_HEADER_TIMEOUT_SECONDS", "2.5"),
            ("WORKERS", "8"),
            ("UPSTREAM_MAX_CONNECTIONS", "3"),
        ],
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(!text.contains(CANARY), "{text}");
    let effective: BTreeMap<_, _> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name, value.trim()))
        .collect();
    for (name, value) in [
        ("UPSTREAM_BASE_URL", "https://api.example.com/v1"),
        ("UPSTREAM_API_KEY", "********"),
        ("UPSTREAM_API_KEY_HEADER", "x-api-key"),
        ("UPSTREAM_API_KEY_PREFIX", "\"Token \""),
        ("PROXY_ACCESS_TOKEN", "********"),
        ("LISTEN_HOST", "127.0.0.1"),
        ("LISTEN_PORT", "9000"),
        ("LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS", "2.5"),
        ("WORKERS", "3"),
        ("UPSTREAM_CA_FILE", "unset"),
    ] {
        assert_eq!(effective.get(name), Some(&value), "{name} in {text}");
    }
}

#[test]
fn check_warns_of_a_key_that_strangers_could_spend() {
    let variables = [
        ("UPSTREAM_BASE_URL", "https://api.example.com"),
        ("UPSTREAM_API_KEY", CANARY),
        ("LISTEN_HOST", "0.0.0.0"),
    ];
    let output = run(&["--check"], &variables);
    assert_eq!(output.status.code(), Some(0));
    let text = stderr(&output);
    assert!(text.contains("PROXY_ACCESS_TOKEN is unset"), "{text}");
    assert!(!text.contains(CANARY), "{text}");
}

#[test]
fn wrong_arguments_have_their_exit_code() {
    assert_eq!(run(&["--no-such-thing"], &[]).status.code(), Some(2));
    assert_eq!(run(&["--version", "--check"], &[]).status.code(), Some(2));
}

/// Serves one connection on a port of its own: reads the request, answers with `answer`.
///
/// The thread returns the request.
fn answer_once(host: &str, answer: &'static str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind((host, 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port().to_string();
    let served = std::thread::spawn(move || {
        let (mut conn, _) = listener.accept().expect("the check connects");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            conn.read_exact(&mut byte).expect("a whole request");
            request.push(byte[0]);
        }
        conn.write_all(answer.as_bytes()).expect("the check reads");
        String::from_utf8(request).expect("ASCII")
    });
    (port, served)
}

#[test]
fn healthcheck_needs_only_the_address_and_succeeds_on_a_200() {
    for listen_host in ["127.0.0.1", "0.0.0.0", "localhost"] {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"ok\":true}";
        let (port, served) = answer_once("127.0.0.1", answer);
        let variables = [("LISTEN_HOST", listen_host), ("LISTEN_PORT", &port)];
        let output = run(&["healthcheck"], &variables);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
        let request = served.join().expect("served");
        assert!(
            request.starts_with("GET /healthz HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(
            request.contains(&format!("\r\nHost: 127.0.0.1:{port}\r\n")),
            "{request}"
        );
    }
}

#[test]
fn healthcheck_fails_with_one_line_on_any_other_answer() {
    for (answer, reason) in [
        (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            "draining",
        ),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404"),
        ("SSH-2.0-OpenSSH_9\r\n", "not an HTTP response"),
        ("", "not an HTTP response"),
    ] {
        let (port, served) = answer_once("127.0.0.1", answer);
        let output = run(&["healthcheck"], &[("PROXY_PORT", &port)]);
        served.join().expect("served");
        assert_eq!(output.status.code(), Some(1), "{answer}");
        let text = stderr(&output);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(reason), "{text}");
    }
}

#[test]
fn healthcheck_fails_when_nobody_listens_or_nobody_answers() {
    // The backlog takes the connection; nobody ever reads from it.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let ports = [&silent, &closed].map(|listener| {
        let addr = listener.local_addr().expect("bound");
        addr.port().to_string()
    });
    drop(closed);
    for port in ports.iter().map(String::as_str).chain(["0", "x"]) {
        let output = run(&["healthcheck"], &[("LISTEN_PORT", port)]);
        assert_eq!(output.status.code(), Some(1), "{port}");
        let text = stderr(&output);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("LISTEN_PORT"), "{text}");
    }
}

/// Name and default of every setting.
type Defaults = BTreeMap<String, String>;

/// Set by the image: inside a container the address is fixed, outside Compose publishes a port.
const FIXED_BY_THE_IMAGE: [&str; 2] = ["LISTEN_HOST", "LISTEN_PORT"];

/// In Compose it is the published port and nothing that the container sees.
const PUBLISHED_PORT: &str = "PROXY_PORT";

/// In Compose it is where that port is published.
const PUBLISHED_HOST: &str = "LISTEN_HOST";

/// Settings of the runtime that Compose passes on as well.
const OF_THE_RUNTIME: &str = "MONOIO_FORCE_LEGACY_DRIVER";

fn read_file(name: &str) -> String {
    let path = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn is_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    text.contains('_') && text.bytes().all(is_part) || text == "WORKERS"
}

/// `--help`: two spaces, the name, spaces, the default.
fn defaults_of_help() -> Defaults {
    let output = run(&["--help"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    let lines = text.lines().filter_map(|line| line.strip_prefix("  "));
    let pairs = lines.filter_map(|line| line.split_once(' '));
    pairs
        .filter(|(name, _)| is_name(name))
        .map(|(name, default)| (name.to_owned(), default.trim().replace('"', "")))
        .collect()
}

/// README.md: the table that begins with the base URL, names and defaults in backticks.
fn defaults_of_readme() -> Defaults {
    let text = read_file("README.md");
    let rows = text
        .lines()
        .skip_while(|line| !line.starts_with("| `UPSTREAM_BASE_URL` |"))
        .take_while(|line| line.starts_with('|'));
    let cell = |text: &str| text.trim().replace('`', "");
    rows.map(|row| {
        let mut cells = row.split('|').skip(1).map(cell);
        let pair = (cells.next(), cells.next());
        let (Some(name), Some(default)) = pair else {
            panic!("a row without a default: {row}");
        };
        (name, default)
    })
    .collect()
}

/// .env.example: `NAME=value`, or `# NAME=default` where it need not be set.
fn defaults_of_env_example() -> Defaults {
    let text = read_file(".env.example");
    let lines = text.lines();
    let pairs = lines.filter_map(|line| line.strip_prefix("# ").unwrap_or(line).split_once('='));
    pairs
        .filter(|(name, _)| is_name(name))
        .map(|(name, value)| (name.to_owned(), value.replace('"', "")))
        .collect()
}

/// docker-compose.yml: the lines of the environment mapping, `NAME:` or `NAME: value`.
fn environment_of_compose() -> Defaults {
    let text = read_file("docker-compose.yml");
    let mut lines = text
        .lines()
        .skip_while(|line| line.trim() != "environment:");
    let indent = |line: &str| line.len() - line.trim_start().len();
    let outer = indent(lines.next().expect("an environment mapping"));
    lines
        .take_while(|line| indent(line) > outer || line.trim().is_empty())
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.split_once(':').expect("a mapping's entry");
            (name.to_owned(), value.trim().replace('"', ""))
        })
        .collect()
}

#[test]
fn help_and_the_readme_name_the_same_settings_with_the_same_defaults() {
    let trimmed = |defaults: Defaults| -> Defaults {
        let trim = |(name, default): (String, String)| (name, default.trim().to_owned());
        defaults.into_iter().map(trim).collect()
    };
    let help = trimmed(defaults_of_help());
    assert!(help.len() > 20, "{help:?}");
    assert_eq!(help, trimmed(defaults_of_readme()));
}

#[test]
fn help_lists_every_setting_that_the_program_reads() {
    let names = codex_reset_proxy::config::SETTINGS.iter();
    let names: Vec<_> = names.map(|setting| setting.name.to_owned()).collect();
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(defaults_of_help().into_keys().collect::<Vec<_>>(), sorted);
}

#[test]
fn the_example_names_the_same_settings_with_the_same_defaults() {
    let help = defaults_of_help();
    let mut expected = help.clone();
    for default in expected.values_mut() {
        // What is no value cannot be written as one.
        if default == "unset" || default == "cores" {
            default.clear();
        }
        // The default of one setting is the value of another.
        if let Some(value) = help.get(default.as_str()) {
            *default = value.clone();
        }
    }
    // Required, so it bears an example.
    let example = "https://api.openai.com".to_owned();
    expected.insert("UPSTREAM_BASE_URL".to_owned(), example);
    // The program's default has a space at its end, and so must the example's.
    expected.insert("UPSTREAM_API_KEY_PREFIX".to_owned(), "Bearer ".to_owned());
    assert_eq!(defaults_of_env_example(), expected);
}

#[test]
fn compose_passes_on_the_same_settings_and_leaves_defaults_to_the_program() {
    let help = defaults_of_help();
    let compose = environment_of_compose();
    let mut names: Vec<_> = help.keys().map(String::as_str).collect();
    names.retain(|name| *name != PUBLISHED_PORT && !FIXED_BY_THE_IMAGE.contains(name));
    names.push(OF_THE_RUNTIME);
    names.sort_unstable();
    assert_eq!(compose.keys().collect::<Vec<_>>(), names);
    for (name, value) in &compose {
        if name == "UPSTREAM_BASE_URL" {
            assert!(value.starts_with("${UPSTREAM_BASE_URL:?"), "{value}");
        } else {
            // With a value, unset and empty could not be told apart.
            assert_eq!(value, "", "{name}");
        }
    }
    let text = read_file("docker-compose.yml");
    for (key, name) in [("host_ip", PUBLISHED_HOST), ("published", PUBLISHED_PORT)] {
        let line = format!("{key}: \"${{{name}:-{}}}\"", help[name]);
        assert!(text.contains(&line), "{line}");
    }
}

#[test]
fn the_image_is_labelled_with_the_version_of_the_program() {
    let label = concat!("image.version=\"", env!("CARGO_PKG_VERSION"), "\"");
    assert!(read_file("Dockerfile").contains(label), "{label}");
}
