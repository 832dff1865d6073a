//! What the client is told when there is no response to relay: one enum, one match.
use std::fmt::{Display, Write};
use std::time::Duration;

use crate::telemetry::json::Escaped;

/// Why we answer ourselves. Messages name what happened, for how long, and which setting governs
/// it; they hold no secret and no query string.
#[derive(Debug)]
pub enum Refusal {
    /// The request cannot be forwarded as it is.
    BadRequest(&'static str),
    /// `PROXY_ACCESS_TOKEN` is set and the request does not bear it.
    Unauthorized,
    /// CONNECT and TRACE.
    MethodNotAllowed,
    /// The head or body did not come in time: what, and the limit with its setting.
    RequestTimeout(&'static str, Duration, &'static str),
    /// The body exceeds this many bytes.
    BodyTooLarge(u64),
    /// The request-line is too long.
    UriTooLong,
    /// The head is too large.
    FieldsTooLarge,
    /// A limit of the whole process is reached: what there is too much of, and its setting.
    Overloaded(&'static str, &'static str),
    /// No complete response head in time.
    HeaderTimeout(String),
    /// Another limit of an attempt expired.
    UpstreamTimeout(String),
    /// The upstream could not be reached, or closed or reset the connection.
    UpstreamRequest(String),
    /// The upstream's bytes are no response.
    BadResponse(String),
    /// One of these in answer to a WebSocket handshake: clients that know another way, such as Codex,
    /// take it at once when they are told 426.
    NoUpgrade(Box<Refusal>),
}

/// A refusal as a response.
pub struct Told {
    /// Status code and reason phrase.
    pub status: (u16, &'static str),
    /// The `code` of the JSON error and of `x-codex-reset-proxy-error`.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// What the client gets to see.
    pub fn tell(&self) -> Told {
        let (status, code, message) = match self {
            Self::BadRequest(reason) => ((400, "Bad Request"), "bad_request", (*reason).to_owned()),
            Self::Unauthorized => (
                (401, "Unauthorized"),
                "unauthorized",
                "this proxy wants its access token as `Authorization: Bearer` or `x-api-key` (PROXY_ACCESS_TOKEN)".to_owned(),
            ),
            Self::MethodNotAllowed => (
                (405, "Method Not Allowed"),
                "method_not_allowed",
                "CONNECT and TRACE are not forwarded".to_owned(),
            ),
            Self::RequestTimeout(what, limit, setting) => (
                (408, "Request Timeout"),
                "request_timeout",
                format!("{what} did not arrive within {} s ({setting})", limit.as_secs_f64()),
            ),
            Self::BodyTooLarge(max) => (
                (413, "Content Too Large"),
                "request_body_too_large",
                format!("the request body exceeds {max} bytes (MAX_REQUEST_BODY_BYTES)"),
            ),
            Self::UriTooLong => (
                (414, "URI Too Long"),
                "uri_too_long",
                "the request-line exceeds 32 KiB".to_owned(),
            ),
            Self::FieldsTooLarge => (
                (431, "Request Header Fields Too Large"),
                "header_fields_too_large",
                "the head exceeds 64 KiB or 128 fields".to_owned(),
            ),
            Self::Overloaded(what, setting) => (
                (503, "Service Unavailable"),
                "overloaded",
                format!("this proxy holds as many {what} as it may ({setting}); try again"),
            ),
            Self::HeaderTimeout(message) => {
                ((504, "Gateway Timeout"), "upstream_header_timeout", message.clone())
            }
            Self::UpstreamTimeout(message) => ((504, "Gateway Timeout"), "upstream_timeout", message.clone()),
            Self::UpstreamRequest(message) => ((502, "Bad Gateway"), "upstream_request_error", message.clone()),
            Self::BadResponse(message) => ((502, "Bad Gateway"), "upstream_bad_response", message.clone()),
            Self::NoUpgrade(cause) => {
                let told = cause.tell();
                ((426, "Upgrade Required"), told.code, told.message)
            }
        };
        Told {
            status,
            code,
            message,
        }
    }

    /// Whether the client may still be sending what we are not going to read, or where its next
    /// request starts is uncertain: the connection cannot be used again.
    pub fn closes(&self) -> bool {
        !matches!(
            self,
            Self::HeaderTimeout(_)
                | Self::UpstreamTimeout(_)
                | Self::UpstreamRequest(_)
                | Self::BadResponse(_)
                | Self::NoUpgrade(_)
        )
    }
}

impl Told {
    /// The JSON body, in the shape that OpenAI's clients read; they pass over `request_id`.
    pub fn body(&self, id: impl Display) -> String {
        let mut body = r#"{"error":{"message":""#.to_owned();
        // Writing to a `String` does not fail. Messages may quote what the operating system says.
        let _ = Escaped(&mut body).write_str(&self.message);
        let _ = write!(
            body,
            r#"","type":"proxy_error","param":null,"code":"{}","request_id":"{id}"}}}}"#,
            self.code
        );
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_whatever_the_message() {
        let told = Refusal::UpstreamRequest("a \"b\" \\ \n\u{1} é".to_owned()).tell();
        assert_eq!(
            told.body("1f"),
            r#"{"error":{"message":"a \"b\" \\ \u000a\u0001 \u00e9","type":"proxy_error","param":null,"code":"upstream_request_error","request_id":"1f"}}"#
        );
    }
}
