//! Why a session failed: in words, and whether another one might fare better.
use std::fmt::{self, Display};
use std::io;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError};
use time::UtcDateTime;

use super::settings::Asked;

/// Names of a certificate that are listed: some have hundreds.
const NAMES_MAX: usize = 8;

/// The longest name there may be (RFC 1035, 2.3.4): others are the peer's to write.
const NAME_CHARS_MAX: usize = 255;

/// What the I/O error of a session holds.
#[derive(Debug)]
struct Fault {
    /// It is about a certificate, theirs or ours: asking again is no use.
    of_certificate: bool,
    /// Go on from "the TLS handshake failed".
    words: String,
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Fault {}

/// Whether `error` says that the peer's certificate is not to be trusted, or that the peer does not
/// trust ours: asking again is no use.
pub fn is_certificate_error(error: &io::Error) -> bool {
    let fault = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Fault>());
    fault.is_some_and(|fault| fault.of_certificate)
}

pub(super) fn invalid(error: Error, asked: Asked) -> io::Error {
    let about_certificate = match &error {
        Error::InvalidCertificate(problem) => Some(theirs(problem)),
        Error::NoCertificatesPresented => Some("it shows no certificate".to_owned()),
        Error::AlertReceived(alert) => ours(*alert, asked),
        _ => None,
    };
    let fault = Fault {
        of_certificate: about_certificate.is_some(),
        words: about_certificate.unwrap_or_else(|| match error {
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                "it answers, and not in TLS: perhaps UPSTREAM_BASE_URL has to begin with http://"
                    .to_owned()
            }
            error => error.to_string(),
        }),
    };
    io::Error::new(io::ErrorKind::InvalidData, fault)
}

/// What is wrong with the peer's certificate.
fn theirs(problem: &CertificateError) -> String {
    use CertificateError::*;
    match problem {
        ExpiredContext { time, not_after } => format!(
            "its certificate has expired: it was valid until {}, and the clock here says {}",
            moment(*not_after),
            moment(*time)
        ),
        NotValidYetContext { time, not_before } => format!(
            "its certificate is not valid yet: it is from {} on, and the clock here says {}",
            moment(*not_before),
            moment(*time)
        ),
        NotValidForNameContext {
            expected,
            presented,
        } => format!(
            "its certificate is for another name: not for {}, {}",
            expected.to_str(),
            names(presented)
        ),
        UnknownIssuer => "its certificate comes from an unknown issuer: UPSTREAM_CA_FILE can name one, and \
                          the upstream has to send the certificates between the issuer's and its own"
            .to_owned(),
        BadSignature => "its certificate bears a wrong signature: an issuer in UPSTREAM_CA_FILE has the name of \
                         its issuer and another key"
            .to_owned(),
        Revoked => "its certificate has been revoked".to_owned(),
        // Of a kind that the verifier's own library does not export.
        Other(OtherError(inner)) if inner.to_string() == "CaUsedAsEndEntity" => {
            "its certificate is that of an authority (CA:TRUE), and a server may not show such a one"
                .to_owned()
        }
        Other(OtherError(inner)) => format!("its certificate cannot be used: {inner}"),
        problem => format!("its certificate cannot be used: {problem}"),
    }
}

/// What the names are in words: `DnsName("a.example")` is how they come.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| -> String {
        let inner = name
            .split_once('(')
            .and_then(|(_, rest)| rest.strip_suffix(')'));
        let bare = inner.unwrap_or(name).trim_matches('"').chars();
        bare.take(NAME_CHARS_MAX).collect()
    };
    let listed: Vec<String> = presented.iter().take(NAMES_MAX).map(bare).collect();
    match (listed.join(", "), presented.len().saturating_sub(NAMES_MAX)) {
        (none, _) if none.is_empty() => {
            "nor for any other (only subject alternative names count)".to_owned()
        }
        (listed, 0) => format!("but for {listed}"),
        (listed, more) => format!("but for {listed} and {more} more"),
    }
}

/// To the second, as logs have it.
fn moment(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match UtcDateTime::from_unix_timestamp(seconds) {
        Ok(moment) => {
            let (hour, minute, second) = moment.as_hms();
            format!("{} {hour:02}:{minute:02}:{second:02} UTC", moment.date())
        }
        Err(_) => format!("second {seconds} of Unix time"),
    }
}

/// What the peer has against our certificate, or against there being none; `None` where it is about
/// something else.
fn ours(alert: AlertDescription, asked: Asked) -> Option<String> {
    use AlertDescription::*;
    let of_certificate = matches!(
        alert,
        BadCertificate
            | UnsupportedCertificate
            | CertificateRevoked
            | CertificateExpired
            | CertificateUnknown
            | UnknownCA
            | AccessDenied
            | CertificateRequired
    );
    match asked {
        // Before TLS 1.3 there is no alert of its own for one that is missing (RFC 5246, 7.4.6).
        Asked::InVain if of_certificate || alert == HandshakeFailure => Some(format!(
            "it wants a client certificate, and UPSTREAM_CLIENT_CERT_FILE is unset (alert {alert:?})"
        )),
        // For one that it knows the issuer of, by name only.
        Asked::Shown if of_certificate || alert == DecryptError => Some(format!(
            "it does not accept the certificate of UPSTREAM_CLIENT_CERT_FILE (alert {alert:?})"
        )),
        _ => of_certificate.then(|| format!("it does not accept who we are (alert {alert:?})")),
    }
}
