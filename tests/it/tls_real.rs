//! TLS with servers that others have written: `openssl s_server` and nginx, where they are installed.
use rcgen::{CertificateParams, DnType, date_time_ymd};

use crate::support::{Authority, Client, Folder, Issued, Proxy, Server, Shown, get, post};

const ALONE: (&str, &str) = ("WORKERS", "1");
const VERSIONS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];

/// Writes what a server needs: `cert`, `key` and `ca`, the last for those whom it asks.
fn provide(folder: &Folder, shown: &Issued, authority: &Authority) {
    folder.write("cert", shown.certificate.pem());
    folder.write("key", shown.key.serialize_pem());
    folder.write("ca", authority.pem());
}

/// A page that says what OpenSSL knows of each session. It serves one connection after the other.
fn openssl(shown: &Issued, authority: &Authority, more: &[&str]) -> Option<Server> {
    Server::start("openssl", |port, folder| {
        provide(folder, shown, authority);
        let accept = format!("127.0.0.1:{port}");
        let always = [
            "s_server", "-cert", "cert", "-key", "key", "-CAfile", "ca", "-www", "-accept",
        ];
        let arguments = always.iter().copied().chain([accept.as_str()]);
        arguments
            .chain(more.iter().copied())
            .map(str::to_owned)
            .collect()
    })
}

/// Says of each request: the version of TLS, how many requests its connection has had, whether the
/// session was resumed, and what it thinks of the certificate it was shown.
fn nginx(authority: &Authority, version: &str, more: &str) -> Option<Server> {
    Server::start("nginx", |port, folder| {
        provide(folder, &authority.issue(|_| ()), authority);
        let text = format!(
            "daemon off; master_process off; pid pid; error_log stderr info; events {{}}
            http {{
                access_log off; client_body_temp_path body; proxy_temp_path proxy;
                fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                server {{
                    listen 127.0.0.1:{port} ssl; ssl_protocols {version}; {more}
                    ssl_certificate cert; ssl_certificate_key key; ssl_client_certificate ca;
                    location / {{ return 200 \"$ssl_protocol $connection_requests $ssl_session_reused \
                    $ssl_client_verify $ssl_client_s_dn\"; }}
                }}
            }}"
        );
        folder.write("conf", text);
        ["-e", "stderr", "-p", &folder.path(""), "-c", "conf"]
            .map(str::to_owned)
            .into()
    })
}

fn start(server: &Server, authority: &Authority, settings: &[(&str, &str)]) -> Proxy {
    let always = [ALONE, ("UPSTREAM_CA_FILE", authority.file())];
    let url = format!("https://{}", server.addr);
    Proxy::start_at(&url, &[&always, settings].concat())
}

/// Says that it is so-and-so.
fn call(name: &str) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.distinguished_name.push(DnType::CommonName, name)
}

#[test]
fn openssl_is_spoken_to_by_both_versions_and_resumes_its_sessions() {
    for (version, option) in VERSIONS.into_iter().zip(["-tls1_2", "-tls1_3"]) {
        let authority = Authority::new();
        let shown = authority.issue(|_| ());
        let Some(server) = openssl(&shown, &authority, &[option]) else {
            return;
        };
        let proxy = start(&server, &authority, &[]);
        for kind in ["New", "Reused"] {
            let text = answered_at_once(&proxy);
            assert!(
                text.contains(&format!("{kind}, {version}, Cipher is")),
                "{text}"
            );
            assert!(text.contains("no client certificate available"), "{text}");
        }
    }
}

#[test]
fn openssl_is_shown_the_certificate_that_it_asks_for() {
    for option in ["-tls1_2", "-tls1_3"] {
        let authority = Authority::new();
        let more = [option, "-Verify", "1", "-verify_return_error"];
        let Some(server) = openssl(&authority.issue(|_| ()), &authority, &more) else {
            return;
        };
        let shown = Shown::new(&authority.issue(call("worker 7")));
        let proxy = start(&server, &authority, &shown.settings());
        for _ in 0..2 {
            let text = answered_at_once(&proxy);
            assert!(text.contains("worker 7"), "{text}");
        }
    }
}

/// The text of a response to a request that was sent once.
#[track_caller]
fn answered_at_once(proxy: &Proxy) -> String {
    let response = Client::connect(proxy).exchange(get("/"));
    let text = response.text();
    assert_eq!(
        (response.status(), response.attempts()),
        (200, Some(1)),
        "{text}"
    );
    text
}

/// A request fails with these words, and is not tried again.
#[track_caller]
fn assert_final(proxy: &Proxy, words: &str) {
    let refusal = Client::connect(proxy).exchange(get("/"));
    refusal.assert_refusal(502, "upstream_request_error");
    assert!(refusal.text().contains(words), "{}", refusal.text());
    let line = proxy.logs(&["attempt=1 phase=tls failure=tls_failed", "again=false"]);
    assert!(line.contains(words), "{line}");
}

#[test]
fn openssl_says_once_that_it_is_not_content_with_who_we_are() {
    let wanted = "it wants a client certificate, and UPSTREAM_CLIENT_CERT_FILE is unset";
    let unaccepted = "it does not accept the certificate of UPSTREAM_CLIENT_CERT_FILE";
    for option in ["-tls1_2", "-tls1_3"] {
        let authority = Authority::new();
        let more = [option, "-Verify", "1", "-verify_return_error"];
        let Some(server) = openssl(&authority.issue(|_| ()), &authority, &more) else {
            return;
        };
        assert_final(&start(&server, &authority, &[]), wanted);
        let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
        for issued in [Authority::new().issue(|_| ()), authority.issue(expired)] {
            let shown = Shown::new(&issued);
            let proxy = start(&server, &authority, &shown.settings());
            assert_final(&proxy, unaccepted);
        }
    }
}

#[test]
fn openssls_certificates_are_looked_at() {
    let authority = Authority::new();
    let early = |params: &mut CertificateParams| params.not_before = date_time_ymd(2100, 1, 1);
    let late = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let elsewhere = |params: &mut CertificateParams| {
        params.subject_alt_names = CertificateParams::new(vec!["a.example".to_owned()])
            .unwrap()
            .subject_alt_names;
    };
    for (issued, words) in [
        (authority.issue(early), "its certificate is not valid yet"),
        (authority.issue(late), "its certificate has expired"),
        (
            authority.issue(elsewhere),
            "not for 127.0.0.1, but for a.example",
        ),
        (Authority::new().issue(|_| ()), "from an unknown issuer"),
    ] {
        for option in ["-tls1_2", "-tls1_3"] {
            let Some(server) = openssl(&issued, &authority, &[option]) else {
                return;
            };
            assert_final(&start(&server, &authority, &[]), words);
        }
    }
}

#[test]
fn nginx_is_spoken_to_on_one_connection_by_both_versions() {
    for version in VERSIONS {
        let authority = Authority::new();
        let Some(server) = nginx(&authority, version, "") else {
            return;
        };
        let proxy = start(&server, &authority, &[]);
        for number in 1..=5 {
            let response = Client::connect(&proxy).exchange(post("/", b"{}"));
            let text = response.text();
            assert_eq!(
                (response.status(), response.attempts()),
                (200, Some(1)),
                "{text}"
            );
            assert_eq!(text, format!("{version} {number} . NONE "));
            proxy.ended(number);
        }
    }
}

#[test]
fn nginx_resumes_our_sessions_by_tickets_and_by_its_cache() {
    for version in VERSIONS {
        for tickets in ["on", "off"] {
            let authority = Authority::new();
            let more = format!(
                "keepalive_requests 1; ssl_session_cache shared:s:1m; ssl_session_tickets {tickets};"
            );
            let Some(server) = nginx(&authority, version, &more) else {
                return;
            };
            let proxy = start(&server, &authority, &[]);
            for reused in [".", "r", "r"] {
                let text = Client::connect(&proxy).exchange(get("/")).text();
                assert_eq!(
                    text,
                    format!("{version} 1 {reused} NONE "),
                    "tickets {tickets}"
                );
            }
        }
    }
}

#[test]
fn nginx_is_shown_the_certificate_that_it_asks_for_and_what_it_says_without_one_is_relayed() {
    for version in VERSIONS {
        let authority = Authority::new();
        let Some(server) = nginx(&authority, version, "ssl_verify_client on;") else {
            return;
        };
        let shown = Shown::new(&authority.issue(call("worker 7")));
        let proxy = start(&server, &authority, &shown.settings());
        for number in 1..=2 {
            let text = Client::connect(&proxy).exchange(get("/")).text();
            assert_eq!(text, format!("{version} {number} . SUCCESS CN=worker 7"));
            proxy.ended(number);
        }

        let stranger = Shown::new(&Authority::new().issue(call("stranger")));
        for (settings, words) in [
            (&[][..], "No required SSL certificate was sent"),
            (&stranger.settings(), "The SSL certificate error"),
        ] {
            let proxy = start(&server, &authority, settings);
            let response = Client::connect(&proxy).exchange(get("/"));
            assert_eq!((response.status(), response.attempts()), (400, Some(1)));
            assert!(response.text().contains(words), "{}", response.text());
        }
    }
}
