//! The words that log lines, metrics and the page use for the same things.

/// How an exchange ended; exactly one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "explained where they are counted")]
pub enum Ending {
    Answered,
    Rescued,
    Exhausted,
    Refused,
    ClientLeft,
    Tunnelled,
    Aborted,
}

impl Ending {
    /// In the order of the variants.
    pub const NAMES: [&'static str; 7] = [
        "answered",
        "rescued",
        "exhausted",
        "refused",
        "client_left",
        "tunnelled",
        "aborted",
    ];

    /// As a word.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// What an exchange is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// The client sends its request.
    #[default]
    Receiving,
    /// Waiting for one of the connections that `UPSTREAM_MAX_CONNECTIONS` allows.
    Pool,
    /// Waiting for the upstream's addresses.
    Resolve,
    /// Connecting to the upstream.
    Connect,
    /// Asking the outbound proxy for it.
    Proxy,
    /// Shaking hands with it.
    Tls,
    /// Sending the request.
    Send,
    /// Waiting for the response head.
    Header,
    /// Pausing before the next attempt.
    Backoff,
    /// Relaying the response.
    Relay,
    /// Moving bytes both ways.
    Tunnel,
}

impl Phase {
    /// In the order of the variants.
    pub const NAMES: [&'static str; 11] = [
        "receiving",
        "pool",
        "resolve",
        "connect",
        "proxy",
        "tls",
        "send",
        "header",
        "backoff",
        "relay",
        "tunnel",
    ];

    /// As a word.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "those of `upstream::failure::Failure`")]
pub enum Cause {
    PoolTimeout,
    NoSuchName,
    ResolveFailed,
    ConnectTimeout,
    ConnectFailed,
    ProxyTimeout,
    ProxyRefused,
    ProxyFailed,
    TlsFailed,
    WriteTimeout,
    WriteFailed,
    HeaderTimeout,
    Closed,
    ReadFailed,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::PoolTimeout,
        Self::NoSuchName,
        Self::ResolveFailed,
        Self::ConnectTimeout,
        Self::ConnectFailed,
        Self::ProxyTimeout,
        Self::ProxyRefused,
        Self::ProxyFailed,
        Self::TlsFailed,
        Self::WriteTimeout,
        Self::WriteFailed,
        Self::HeaderTimeout,
        Self::Closed,
        Self::ReadFailed,
    ];

    /// In the order of the variants.
    pub const NAMES: [&'static str; 14] = [
        "pool_timeout",
        "no_such_name",
        "resolve_failed",
        "connect_timeout",
        "connect_failed",
        "proxy_timeout",
        "proxy_refused",
        "proxy_failed",
        "tls_failed",
        "write_timeout",
        "write_failed",
        "header_timeout",
        "closed",
        "read_failed",
    ];

    /// As a word.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The phase it happens in.
    pub fn phase(self) -> Phase {
        match self {
            Self::PoolTimeout => Phase::Pool,
            Self::NoSuchName | Self::ResolveFailed => Phase::Resolve,
            Self::ConnectTimeout | Self::ConnectFailed => Phase::Connect,
            Self::ProxyTimeout | Self::ProxyRefused | Self::ProxyFailed => Phase::Proxy,
            Self::TlsFailed => Phase::Tls,
            Self::WriteTimeout | Self::WriteFailed => Phase::Send,
            Self::HeaderTimeout | Self::Closed | Self::ReadFailed => Phase::Header,
        }
    }
}

/// How far the request of a failed attempt came, as far as we can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Nothing of it left us.
    NotSent,
    /// Part of it has not left us and never will, or was sent again and again and never acknowledged: it
    /// cannot have been processed whole.
    NotAcked,
    /// The peer's kernel has taken all of it, or may have: it may have been processed, and billed. Behind
    /// a CDN or a load balancer it is the edge that has taken it.
    Acked,
}

impl Delivery {
    /// In the order of the variants.
    pub const NAMES: [&'static str; 3] = ["not_sent", "not_acked", "acked"];

    /// All of them.
    pub const ALL: [Self; 3] = [Self::NotSent, Self::NotAcked, Self::Acked];

    /// As a word.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}
