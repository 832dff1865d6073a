//! PEM files of settings: those that are of no use stop the start, in words that say what to do.
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::{fs, iter};

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};

use crate::support::{
    Authority, CANARY, Client, Folder, OK, Origin, Proxy, answers, get, installed, run, run_by,
};

const CA: &str = "UPSTREAM_CA_FILE";
const CERT: &str = "UPSTREAM_CLIENT_CERT_FILE";
const KEY: &str = "UPSTREAM_CLIENT_KEY_FILE";
const URL: (&str, &str) = ("UPSTREAM_BASE_URL", "https://127.0.0.1:9");

/// The start ends with these lines and no others, in `--check` too.
#[track_caller]
fn assert_stops(settings: &[(&str, &str)], lines: &[&str]) {
    let settings = [&[URL], settings].concat();
    for arguments in [&[][..], &["--check"]] {
        let ended = run(arguments, &settings);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.text);
        let expected = lines
            .iter()
            .map(|line| format!("codex-reset-proxy: {line}"));
        assert_eq!(
            ended.text.lines().collect::<Vec<_>>(),
            expected.collect::<Vec<_>>()
        );
    }
}

/// `--check` finds nothing wrong; what it prints.
#[track_caller]
fn checks(settings: &[(&str, &str)]) -> String {
    let ended = run(&["--check"], &[&[URL], settings].concat());
    assert_eq!(ended.status.code(), Some(0), "{}", ended.text);
    ended.text
}

/// The value that `--check` prints.
fn value<'t>(text: &'t str, name: &str) -> &'t str {
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    values.next().unwrap().trim()
}

const NO_CERTIFICATE: &str = "holds no certificate in PEM (-----BEGIN CERTIFICATE-----); `openssl x509 -inform DER` makes it of DER";

/// Files that are no PEM files with a certificate, and what is said of them.
fn unfit(folder: &Folder) -> Vec<(String, &'static str)> {
    let pem = Authority::new().pem();
    let der = rustls_der(&pem);
    let utf16: Vec<u8> = pem.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cut = pem.replace("-----END CERTIFICATE-----", "");
    let odd = pem.replace("\nM", "\n*");
    let half = pem.replacen("CERTIFICATE-----", "CERTIFICATE", 1);
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let files: [(&str, &[u8], &str); 10] = [
        ("empty", b"", "is empty"),
        ("blank", b" \r\n\n", "is empty"),
        ("mark", b"\xef\xbb\xbf", "is empty"),
        ("text", b"not a certificate\n", NO_CERTIFICATE),
        ("der", &der, NO_CERTIFICATE),
        ("utf16", &utf16, NO_CERTIFICATE),
        (
            "cut",
            cut.as_bytes(),
            "is no PEM file: a part of it lacks its -----END line",
        ),
        (
            "odd",
            odd.as_bytes(),
            "is no PEM file: a part of it is damaged in its base64",
        ),
        (
            "half",
            half.as_bytes(),
            "is no PEM file: a part of it begins with a damaged -----BEGIN line",
        ),
        (
            "junk",
            junk.as_bytes(),
            "holds no certificate that can be used",
        ),
    ];
    let written = files.map(|(name, bytes, problem)| (folder.write(name, bytes), problem));
    written.into()
}

fn rustls_der(pem: &str) -> Vec<u8> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes())
        .unwrap()
        .to_vec()
}

#[test]
fn a_file_without_a_certificate_stops_the_start() {
    let folder = Folder::new();
    for (path, problem) in unfit(&folder) {
        for name in [CA, "SSL_CERT_FILE"] {
            assert_stops(&[(name, &path)], &[&format!("{name}={path:?} {problem}")]);
        }
    }
}

#[test]
fn a_path_that_cannot_be_read_stops_the_start() {
    let folder = Folder::new();
    let (missing, directory, pipe) = (folder.path("missing"), folder.path(""), folder.path("pipe"));
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    );
    made.unwrap();
    for (path, why) in [
        (missing, "No such file or directory (os error 2)"),
        (directory, "not a regular file"),
        (pipe, "not a regular file"),
        ("/dev/zero".to_owned(), "not a regular file"),
    ] {
        let path = path.trim_end_matches('/');
        let line =
            |name: &str| format!("{name}={path:?} is not a PEM file that can be read: {why}");
        assert_stops(&[(CA, path)], &[&line(CA)]);
        assert_stops(&[(CERT, path), (KEY, path)], &[&line(CERT), &line(KEY)]);
    }
}

#[test]
fn a_key_that_others_keep_to_themselves_stops_the_start() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let issued = authority.issue(|_| ());
    let cert = folder.write("cert.pem", issued.certificate.pem());
    let key = folder.write("key.pem", issued.key.serialize_pem());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o000)).unwrap();
    let settings = [URL, (CERT, &cert), (KEY, &key)];
    let is_root = rustix::process::getuid().is_root();
    let ended = match is_root {
        false => run(&[], &settings),
        true if installed("setpriv").is_none() => {
            return eprintln!("SKIPPED: setpriv is not installed, root reads every key");
        }
        true => run_by(
            &[
                "/usr/bin/setpriv",
                "--reuid=65534",
                "--clear-groups",
                "--inh-caps=-all",
            ],
            &settings,
        ),
    };
    let problem = "is not a PEM file that can be read: Permission denied (os error 13)";
    let expected = format!("codex-reset-proxy: {KEY}={key:?} {problem}");
    assert_eq!((ended.status.code(), ended.text), (Some(2), expected));
}

#[test]
fn whatever_is_wrong_with_certificate_and_key_stops_the_start() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let (ours, theirs) = (authority.issue(|_| ()), authority.issue(|_| ()));
    let cert = folder.write("cert.pem", ours.certificate.pem());
    let key = folder.write("key.pem", ours.key.serialize_pem());
    let other = folder.write("other.pem", theirs.key.serialize_pem());
    let chain = [authority.pem(), ours.certificate.pem()].concat();
    let upside_down = folder.write("chain.pem", chain);
    let foreign = "holds another key than that of the first certificate in";
    for (cert, key) in [(&cert, &other), (&upside_down, &key)] {
        let line = format!("{KEY}={key:?} {foreign} {CERT}={cert:?}");
        assert_stops(&[(CERT, cert), (KEY, key)], &[&line]);
    }

    let no_key = format!(
        "{KEY}={cert:?} holds no private key in PEM (-----BEGIN PRIVATE KEY-----, RSA PRIVATE KEY or EC \
         PRIVATE KEY)"
    );
    assert_stops(&[(CERT, &cert), (KEY, &cert)], &[&no_key]);
    assert_stops(
        &[(CERT, &key), (KEY, &key)],
        &[&format!("{CERT}={key:?} {NO_CERTIFICATE}")],
    );
    let junk = folder.write(
        "junk.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let line = format!("{CERT}={junk:?} begins with a certificate that cannot be used");
    assert_stops(&[(CERT, &junk), (KEY, &key)], &[&line]);
    assert_stops(
        &[(CA, &junk), (CERT, &cert), (KEY, &other)],
        &[
            &format!("{CA}={junk:?} holds no certificate that can be used"),
            &format!("{KEY}={other:?} {foreign} {CERT}={cert:?}"),
        ],
    );
    let missing = |name: &str, other: &str| {
        format!("{name} is not set, and {other} is: set both, to the same file where it holds both")
    };
    assert_stops(&[(CERT, &cert)], &[&missing(KEY, CERT)]);
    assert_stops(&[(KEY, &key)], &[&missing(CERT, KEY)]);
}

#[test]
fn no_key_is_shown_whatever_is_wrong_with_it() {
    let folder = Folder::new();
    let issued = Authority::new().issue(|_| ());
    let cert = folder.write("cert.pem", issued.certificate.pem());
    let pem = |label: &str, body: &str| {
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    };
    let unfit =
        "holds a key that cannot be used: RSA of 2048 to 8192 bits, P-256, P-384 and Ed25519 can";
    let encrypted = "holds a key that is encrypted: decrypt it (`openssl pkey -in FILE -out NEW`), and let \
                     nobody but this program read it";
    let old = format!("Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n{CANARY}");
    for (text, problem) in [
        (pem("PRIVATE KEY", CANARY), unfit),
        (pem("RSA PRIVATE KEY", CANARY), unfit),
        (
            pem("EC PRIVATE KEY", &format!("{CANARY}!")),
            "is no PEM file: a part of it is damaged in its base64",
        ),
        (
            format!("-----BEGIN PRIVATE KEY {CANARY}\n"),
            "is no PEM file: a part of it begins with a damaged -----BEGIN line",
        ),
        (pem("ENCRYPTED PRIVATE KEY", CANARY), encrypted),
        (pem("RSA PRIVATE KEY", &old), encrypted),
    ] {
        let key = folder.write("key.pem", text);
        assert_stops(
            &[(CERT, &cert), (KEY, &key)],
            &[&format!("{KEY}={key:?} {problem}")],
        );
    }
    let pasted = pem("PRIVATE KEY", CANARY);
    let line =
        format!("{KEY} holds PEM itself (its value is not shown); it has to be the path of a file");
    assert_stops(&[(CERT, &cert), (KEY, &pasted)], &[&line]);
}

/// The file is trusted, whatever else is in it and however its lines end.
#[track_caller]
fn assert_trusted(name: &str, path: &str, authority: &Authority) -> Proxy {
    let origin = Origin::plays_tls(authority, [answers(OK)]);
    let proxy = Proxy::start(&origin, &[(name, path)]);
    let response = Client::connect(&proxy).exchange(get("/"));
    assert_eq!(response.status(), 200, "{}", response.text());
    proxy
}

#[test]
fn a_file_may_have_any_line_ends_a_mark_and_words_between_its_certificates() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let pem = authority.pem();
    let others: String = iter::repeat_with(|| Authority::new().pem())
        .take(3)
        .collect();
    for text in [
        pem.replace('\n', "\r\n"),
        format!("\u{feff}{pem}"),
        format!("\u{feff}{}", pem.replace('\n', "\r\n")),
        format!("# ours\n{pem}\n# others, Ω\n{others}"),
        format!("{others}{}", pem.trim_end()),
    ] {
        assert_trusted(CA, &folder.write("ca.pem", text), &authority);
    }
}

#[test]
fn a_large_bundle_with_some_certificates_that_cannot_be_used_is_trusted_with_a_warning() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let junk = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        "AAAA".repeat(4096)
    );
    let mut bundle = junk.repeat(40);
    let one = Authority::new().pem();
    while bundle.len() < 1 << 20 {
        bundle.push_str(&one);
    }
    bundle.push_str(&authority.pem());
    let count = bundle.matches("BEGIN").count();
    let path = folder.write("ca.pem", bundle);
    let proxy = assert_trusted(CA, &path, &authority);
    let warning = format!("{CA}={path:?}: 40 of {count} certificates cannot be used");
    proxy.logs(&["WARN", &warning]);
    assert!(checks(&[(CA, &path)]).contains(&format!("warning: {warning}")));
}

#[test]
fn ours_goes_before_the_common_variable() {
    let (authority, other) = (Authority::new(), Authority::new());
    let origin = Origin::plays_tls(&authority, [answers(OK)]);
    let settings = [(CA, authority.file()), ("SSL_CERT_FILE", other.file())];
    let proxy = Proxy::start(&origin, &settings);
    assert_eq!(Client::connect(&proxy).exchange(get("/")).status(), 200);
    let text = checks(&settings);
    assert_eq!(value(&text, CA), authority.file());
    assert_trusted("SSL_CERT_FILE", authority.file(), &authority);
    assert_eq!(value(&checks(&settings[1..]), CA), other.file());
}

#[test]
fn what_http_has_no_use_for_is_said() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let issued = authority.issue(|_| ());
    let both = folder.write(
        "both.pem",
        issued.key.serialize_pem() + &issued.certificate.pem(),
    );
    let http = ("UPSTREAM_BASE_URL", "http://127.0.0.1:9");
    let own = [http, (CERT, both.as_str()), (KEY, both.as_str())];
    for (settings, warned) in [
        (&own[..], Some(CERT)),
        (&[http, (CA, authority.file())], Some(CA)),
        (&[http, ("SSL_CERT_FILE", authority.file())], None),
        (&[http], None),
        (&own[1..], None), // https
    ] {
        let text = checks(settings);
        let warning = warned.map(|name| {
            format!(
                "warning: {name} is not used: UPSTREAM_BASE_URL is not https://, so nothing is encrypted"
            )
        });
        assert_eq!(text.contains("warning"), warning.is_some(), "{text}");
        assert!(
            warning.is_none_or(|warning| text.contains(&warning)),
            "{text}"
        );
    }
    let text = checks(&own);
    assert_eq!(
        value(&text, KEY),
        "not used: UPSTREAM_BASE_URL is not https://"
    );
    assert_eq!(value(&text, CA), "unset");
    assert_eq!(value(&checks(&own[1..]), KEY), both);
}

#[test]
fn a_key_of_any_common_kind_and_form_is_taken() {
    let folder = Folder::new();
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let certificate = CertificateParams::new(Vec::new())
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let both = folder.write(
        "both.pem",
        format!("\u{feff}{}{}", key.serialize_pem(), certificate.pem()),
    );
    checks(&[(CERT, &both), (KEY, &both)]);

    let Some(openssl) = installed("openssl") else {
        return eprintln!("SKIPPED: openssl is not installed, nobody makes keys of other kinds");
    };
    let encrypted = "holds a key that is encrypted";
    for (make, begins, taken) in [
        ("genrsa 2048", "BEGIN PRIVATE KEY", Ok(())),
        ("genrsa -traditional 2048", "BEGIN RSA PRIVATE KEY", Ok(())),
        (
            "ecparam -genkey -name prime256v1",
            "BEGIN EC PARAMETERS",
            Ok(()),
        ),
        (
            "ecparam -genkey -noout -name secp384r1",
            "BEGIN EC PRIVATE KEY",
            Ok(()),
        ),
        ("genpkey -algorithm ed25519", "BEGIN PRIVATE KEY", Ok(())),
        (
            "genpkey -algorithm ed448",
            "BEGIN PRIVATE KEY",
            Err("holds a key that cannot be used: RSA"),
        ),
        (
            "genrsa -aes128 -passout pass:x 2048",
            "BEGIN ENCRYPTED PRIVATE KEY",
            Err(encrypted),
        ),
        (
            "genrsa -traditional -aes128 -passout pass:x 2048",
            "Proc-Type: 4,ENCRYPTED",
            Err(encrypted),
        ),
    ] {
        let command = |arguments: &str| {
            let mut command = Command::new(&openssl);
            let output = command.args(arguments.split(' ')).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            output.stdout
        };
        let text = command(make);
        assert!(String::from_utf8_lossy(&text).contains(begins), "{make}");
        let key = folder.write("key.pem", text);
        let request = format!("req -x509 -new -key {key} -passin pass:x -subj /CN=c");
        let cert = folder.write("cert.pem", command(&request));
        let ended = run(&["--check"], &[URL, (CERT, &cert), (KEY, &key)]);
        match taken {
            Ok(()) => assert_eq!(ended.status.code(), Some(0), "{make}: {}", ended.text),
            Err(problem) => {
                assert_eq!(ended.status.code(), Some(2), "{make}: {}", ended.text);
                assert!(ended.text.contains(problem), "{make}: {}", ended.text);
            }
        }
    }
}
