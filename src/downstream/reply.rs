//! Exactly one response for each request. The downstream commit.
//!
//! ```text
//!   Unanswered --begin----> Answering --finish----> Answered
//!              \                      \--break_off-> Answered (and the client sees that it is cut)
//!               \--refuse---------------------------> Answered
//! ```
//!
//! ```
//! # use codex_reset_proxy::{downstream::reply::Unanswered, net::buffer::Buffer, refusal::Refusal};
//! # async fn f(reply: Unanswered<'_>, mut head: Buffer, refusal: Refusal) {
//! let _answered = reply.refuse(&refusal, (1, None), "id").await;
//! # }
//! ```
//!
//! After the first response byte no status code can be chosen any more:
//!
//! ```compile_fail,E0382
//! # use codex_reset_proxy::{downstream::reply::Unanswered, net::buffer::Buffer, refusal::Refusal};
//! # async fn f(reply: Unanswered<'_>, mut head: Buffer, refusal: Refusal) {
//! let answering = reply.begin(&mut head).await;
//! reply.refuse(&refusal, (1, None), "id").await; // error: use of moved value
//! # }
//! ```
use std::borrow::Cow;
use std::fmt::Display;
use std::io;

use crate::downstream::client::Client;
use crate::http1::fields::write_field;
use crate::net::buffer::Buffer;
use crate::net::drain::Drain;
use crate::net::tcp::Tcp;
use crate::refusal::Refusal;
use crate::telemetry::counters::add;

/// No response byte has been sent: a status code can still be chosen.
pub struct Unanswered<'c> {
    client: &'c Client,
    head_only: bool,
    keep_alive: bool,
    drain: &'c Drain,
}

/// Response bytes have been sent: what is left is to finish the message or break the connection.
pub struct Answering<'c> {
    client: &'c Client,
    keep_alive: bool,
    sent: u64,
}

/// The request has had its response, whole or visibly cut.
pub struct Answered {
    /// Another request may follow on the connection.
    pub keep_alive: bool,
    /// The client may have sent, or be sending, what nobody will read: it has to be heard out before
    /// the connection is closed, or closing is a reset that destroys the response on its way.
    pub lingers: bool,
    /// Bytes written to the client, heads included.
    pub sent: u64,
}

impl Answered {
    /// The client has left: there is nobody to answer.
    pub const GONE: Self = Self {
        keep_alive: false,
        lingers: false,
        sent: 0,
    };
}

/// A response of our own.
pub struct Own<'o> {
    /// Status code and reason phrase.
    pub status: (u16, &'static str),
    /// The media type of the body.
    pub content_type: &'static str,
    /// Fields beside those that every response has.
    pub fields: &'o [(&'static str, String)],
    /// The body.
    pub body: Cow<'o, str>,
}

impl<'o> Own<'o> {
    /// JSON.
    pub fn json(status: (u16, &'static str), body: impl Into<Cow<'o, str>>) -> Self {
        Self {
            status,
            content_type: "application/json",
            fields: &[],
            body: body.into(),
        }
    }
}

impl<'c> Unanswered<'c> {
    /// The reply to a request; `head_only` to HEAD; `keep_alive` where the connection may go on after
    /// it, unless `drain` has started by the time of its head.
    pub fn new(client: &'c Client, drain: &'c Drain, head_only: bool, keep_alive: bool) -> Self {
        Self {
            client,
            head_only,
            keep_alive,
            drain,
        }
    }

    /// The client.
    pub fn client(&self) -> &'c Client {
        self.client
    }

    /// Whether another request may follow.
    fn keeps_alive(&self) -> bool {
        self.keep_alive && !self.drain.has_started()
    }

    /// Our own 100 (Continue), to a client that expects it. It commits to nothing.
    pub async fn go_on(&self) -> io::Result<()> {
        let mut bytes = Buffer::small();
        bytes
            .as_vec()
            .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        let count = bytes.len() as u64;
        self.client.write(&mut bytes).await?;
        add(count, |core| &core.response_bytes);
        Ok(())
    }

    /// Sends the first bytes of the upstream's response. From here on nothing but its bytes follows.
    pub async fn begin(self, first: &mut Buffer) -> io::Result<Answering<'c>> {
        let mut answering = Answering {
            client: self.client,
            keep_alive: self.keeps_alive(),
            sent: 0,
        };
        answering.write(first).await?;
        Ok(answering)
    }

    /// Tells the client why there is no response. `sends`: how often the request was sent; `failed`: what
    /// became of the attempts, where there was more than one; `id`: the one in our log line.
    pub async fn refuse(
        self,
        refusal: &Refusal,
        (sends, failed): (u32, Option<&dyn Display>),
        id: impl Display,
    ) -> Answered {
        let told = refusal.tell();
        let fields = [
            ("x-codex-reset-proxy-error", told.code.to_owned()),
            ("x-request-id", id.to_string()),
        ];
        let closes = refusal.closes();
        let upgrade = matches!(refusal, Refusal::NoUpgrade(_));
        let overloaded = matches!(refusal, Refusal::Overloaded(..));
        let more = [
            (sends > 0).then(|| ("x-codex-reset-proxy-attempts", sends.to_string())),
            failed.map(|failed| ("x-codex-reset-proxy-attempts-detail", failed.to_string())),
            upgrade.then(|| ("Upgrade", "websocket".to_owned())),
            overloaded.then(|| ("Retry-After", "1".to_owned())),
        ];
        let fields: Vec<_> = fields
            .into_iter()
            .chain(more.into_iter().flatten())
            .collect();
        let own = Own {
            fields: &fields,
            ..Own::json(told.status, told.body(&id))
        };
        self.tell(&own, closes).await
    }

    /// Answers `/healthz`.
    pub async fn tell_health(self, draining: bool) -> Answered {
        let own = match draining {
            false => Own::json((200, "OK"), r#"{"ok":true}"#),
            true => Own::json(
                (503, "Service Unavailable"),
                r#"{"ok":false,"draining":true}"#,
            ),
        };
        self.tell(&own, draining).await
    }

    /// Answers in our own words. `closes`: the connection cannot be used again.
    pub async fn tell(self, own: &Own<'_>, closes: bool) -> Answered {
        let Own {
            status,
            content_type,
            fields,
            body,
        } = own;
        let keep_alive = self.keeps_alive() && !closes;
        let mut bytes = Buffer::small();
        let out = bytes.as_vec();
        out.extend_from_slice(format!("HTTP/1.1 {} {}\r\n", status.0, status.1).as_bytes());
        write_field(out, "Content-Type", content_type.as_bytes());
        write_field(out, "Content-Length", body.len().to_string().as_bytes());
        for (name, value) in *fields {
            write_field(out, name, value.as_bytes());
        }
        let upgrade = fields.iter().any(|(name, _)| *name == "Upgrade");
        match (keep_alive, upgrade) {
            (false, false) => write_field(out, "Connection", b"close"),
            (false, true) => write_field(out, "Connection", b"upgrade, close"),
            (true, false) => (),
            (true, true) => write_field(out, "Connection", b"upgrade"),
        }
        out.extend_from_slice(b"\r\n");
        if !self.head_only {
            out.extend_from_slice(body.as_bytes());
        }
        let sent = bytes.len() as u64;
        let written = self.client.write(&mut bytes).await.is_ok();
        add(sent, |core| &core.response_bytes);
        Answered {
            keep_alive: keep_alive && written,
            lingers: !keep_alive && written,
            sent,
        }
    }
}

impl<'c> Answering<'c> {
    /// Writes all of `bytes`. After an error the connection is good for breaking off only.
    pub async fn write(&mut self, bytes: &mut Buffer) -> io::Result<()> {
        let count = bytes.len() as u64;
        self.client.write(bytes).await?;
        add(count, |core| &core.response_bytes);
        self.count(count);
        Ok(())
    }

    /// The client.
    pub fn client(&self) -> &'c Client {
        self.client
    }

    /// The socket, for bytes that go straight to it; count them with [`Self::count`].
    pub fn tcp(&self) -> &'c Tcp {
        &self.client.tcp
    }

    /// Counts bytes that went straight to the socket.
    pub fn count(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// How long the client may take no byte.
    pub fn stall(&self) -> std::time::Duration {
        self.client.limits.write_timeout
    }

    /// The message is complete. `close`: its end is the connection's end.
    pub fn finish(self, close: bool) -> Answered {
        if close {
            self.client.tcp.finish_on_close();
        }
        let keep_alive = self.keep_alive && !close;
        Answered {
            keep_alive,
            lingers: !keep_alive,
            sent: self.sent,
        }
    }

    /// The message stays incomplete, and the client must see it: by the missing bytes where it knows
    /// how many there should be. Where the end of the connection would be the end of the message,
    /// closing has been made a reset.
    pub fn break_off(self) -> Answered {
        Answered {
            keep_alive: false,
            lingers: false,
            sent: self.sent,
        }
    }
}
