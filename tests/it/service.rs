//! Run by systemd: what it is told, and the unit in the README.
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output};

use rustix::process::Signal;

use crate::support::{Client, DEADLINE, Proxy, Vacant, get, run};

const NAME: &str = "codex-reset-proxy.service";
const PROGRAM: &str = "/usr/local/bin/codex-reset-proxy";
/// Of 100: what `systemd-analyze security` calls OK, and the README's figure.
const EXPOSURE_MAX: &str = "13";

fn heard(supervisor: &UnixDatagram) -> String {
    supervisor.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut buf = [0; 64];
    let count = supervisor.recv(&mut buf).unwrap();
    String::from_utf8(buf[..count].to_vec()).unwrap()
}

#[track_caller]
fn tells(supervisor: &UnixDatagram, socket: &str) {
    let mut proxy = Proxy::start_at(&Vacant::new().url(), &[("NOTIFY_SOCKET", socket)]);
    assert_eq!(heard(supervisor), "READY=1");
    let mut client = Client::connect(&proxy);
    assert_eq!(client.exchange(get("/healthz")).status(), 200);
    proxy.signal(Signal::TERM);
    assert_eq!(heard(supervisor), "STOPPING=1");
    assert!(proxy.exits_within(DEADLINE).success());
}

#[test]
fn systemd_is_told_when_it_is_ready_and_when_it_stops() {
    let path = scratch("notify");
    let _ = fs::remove_file(&path);
    tells(&UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap());
    let name = format!("codex-reset-proxy-test-{}", process::id());
    let addr = SocketAddr::from_abstract_name(&name).unwrap();
    let supervisor = UnixDatagram::bind_addr(&addr).unwrap();
    tells(&supervisor, &format!("@{name}"));
}

#[test]
fn a_supervisor_that_does_not_listen_stops_nothing() {
    for socket in ["", "@", "relative", "/no/such/socket"] {
        let mut proxy = Proxy::start_at(&Vacant::new().url(), &[("NOTIFY_SOCKET", socket)]);
        proxy.signal(Signal::TERM);
        assert!(proxy.exits_within(DEADLINE).success());
    }
}

#[test]
fn systemd_takes_the_units_in_the_readme_and_calls_the_service_safe() {
    let unit = unit();
    assert!(unit.contains(&format!("\nExecStart={PROGRAM}\n")), "{unit}");
    let folder = scratch("unit");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(NAME);
    // It has to exist to be taken.
    fs::write(
        &file,
        unit.replace(PROGRAM, env!("CARGO_BIN_EXE_codex-reset-proxy")),
    )
    .unwrap();
    let Some(taken) = analyze(&["verify", "--man=no"], &file) else {
        eprintln!("SKIPPED: there is no systemd-analyze, nobody judges the unit in the README");
        return;
    };
    // Of what it does not know it says so and goes on.
    assert!(
        taken.status.success() && taken.stderr.is_empty(),
        "{taken:?}"
    );
    let socket = file.with_extension("socket");
    fs::write(
        &socket,
        block("```ini\n# /etc/systemd/system/codex-reset-proxy.socket\n"),
    )
    .unwrap();
    let taken = analyze(&["verify", "--man=no"], &socket).unwrap();
    assert!(
        taken.status.success() && taken.stderr.is_empty(),
        "{taken:?}"
    );
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let judged = analyze(&["security", "--offline=yes", &threshold], &file).unwrap();
    assert!(judged.status.success(), "{judged:?}");
}

#[test]
fn the_unit_in_the_readme_waits_for_the_drain_and_gives_up_on_wrong_settings() {
    let unit = unit();
    let value = |name: &str| {
        let mut lines = unit.lines();
        let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {name} in {unit}"))
    };
    let stop: u32 = value("TimeoutStopSec").parse().unwrap();
    assert!(stop > drain_seconds());
    let wrong = run(&[], &[("UPSTREAM_BASE_URL", "ftp://a")]);
    let code = wrong.status.code().unwrap();
    assert_eq!(value("RestartPreventExitStatus"), code.to_string());
}

#[test]
fn the_deployment_in_the_readme_sets_what_there_is_and_waits_for_the_drain() {
    let deployment = block("```yaml\napiVersion: apps/v1\n");
    let known = codex_reset_proxy::config::SETTINGS.iter();
    let known: Vec<_> = known.map(|setting| setting.name).collect();
    let between = |start: &str, end: &str| {
        let parts = deployment.split(start).skip(1);
        let found = parts.map(|part| part.split(end).next().unwrap().trim().to_owned());
        found.collect::<Vec<_>>()
    };
    let set = between("- {name: ", ",");
    let set: Vec<_> = set.iter().filter(|it| it.contains('_')).collect();
    assert!(set.len() > 3, "{deployment}");
    for name in set {
        assert!(known.contains(&&**name), "{name}");
    }
    let seconds = |key: &str, end: &str| between(key, end)[0].parse::<u32>().unwrap();
    let grace = seconds("terminationGracePeriodSeconds:", "\n");
    assert!(grace > seconds("sleep: {seconds:", "}") + drain_seconds());
}

fn drain_seconds() -> u32 {
    let mut settings = codex_reset_proxy::config::SETTINGS.iter();
    let drain = settings.find(|setting| setting.name == "DRAIN_TIMEOUT_SECONDS");
    drain.unwrap().default.parse().unwrap()
}

/// The unit of the program.
fn unit() -> String {
    block("```ini\n# /etc/systemd/system/codex-reset-proxy.service\n")
}

/// The only block of the README that begins so.
fn block(start: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(path).unwrap();
    let blocks: Vec<_> = text.split(start).skip(1).collect();
    assert_eq!(blocks.len(), 1, "{start}");
    blocks[0].split("```").next().unwrap().to_owned()
}

/// `None` where there is no systemd.
fn analyze(arguments: &[&str], file: &Path) -> Option<Output> {
    let mut command = Command::new("systemd-analyze");
    command.args(arguments).arg("--no-pager").arg(file);
    command.output().ok()
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("service-{name}"))
}
