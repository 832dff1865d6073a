//! Every variable with its default and meaning: what the parser falls back to and `--help` prints.

/// One environment variable.
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What holds while it is unset: a value to be parsed, or words where there is none.
    pub default: &'static str,
    /// What it is for, in a sentence or two.
    pub meaning: &'static str,
}

/// Unset is a fault.
pub(super) const REQUIRED: &str = "required";

/// Unset has a meaning of its own.
pub(super) const UNSET: &str = "unset";

/// All of them, in the order in which people should meet them.
pub const SETTINGS: &[Setting] = &[
    setting(
        "UPSTREAM_BASE_URL",
        REQUIRED,
        "http:// or https:// base URL, with or without a path, or unix:/path/of/socket, with or \
         without :/path of the URL. The incoming path and query are appended unchanged.",
    ),
    setting(
        "UPSTREAM_API_KEY",
        UNSET,
        "When set, replaces the client's field named by UPSTREAM_API_KEY_HEADER. When unset, the \
         client's own fields go through unchanged.",
    ),
    setting(
        "UPSTREAM_API_KEY_HEADER",
        "Authorization",
        "Field to write when the key is set.",
    ),
    setting(
        "UPSTREAM_API_KEY_PREFIX",
        "Bearer ",
        "Written before the key. A bare Bearer, Basic or Token gets the space it needs. Empty \
         means no prefix, here alone.",
    ),
    setting(
        "PROXY_ACCESS_TOKEN",
        UNSET,
        "When set, clients must present it as Authorization: Bearer or x-api-key; that field is \
         not forwarded.",
    ),
    setting(
        "PROXY_PORT",
        "8788",
        "Port on the host that Docker Compose publishes. Without Compose the listening port \
         as well, unless LISTEN_PORT is set.",
    ),
    setting(
        "LISTEN_HOST",
        "127.0.0.1",
        "IP address to listen on. Docker Compose publishes the port there; inside the container it \
         is 0.0.0.0.",
    ),
    setting(
        "LISTEN_PORT",
        "PROXY_PORT",
        "Port to listen on; 0 lets the kernel choose.",
    ),
    setting(
        "LISTEN_UNIX",
        UNSET,
        "Path of a Unix socket to listen on instead of a port. The umask says who may connect.",
    ),
    setting(
        "REUSE_PORT",
        "off",
        "on: listen also where another codex-reset-proxy of the same user listens, to take its place \
         without losing a request. off: a port in use stops the start.",
    ),
    setting(
        "RESPONSE_HEADER_TIMEOUT_SECONDS",
        "30",
        "From the last request byte sent to the end of the response head. Without a byte of \
         response by then, the request is sent again on a new connection.",
    ),
    setting(
        "LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS",
        UNSET,
        "The same for the last attempt; 0 = no limit, unset = as RESPONSE_HEADER_TIMEOUT_SECONDS.",
    ),
    setting(
        "UPGRADE_HEADER_TIMEOUT_SECONDS",
        "5",
        "The same for a WebSocket handshake, on every attempt, where it is less.",
    ),
    setting(
        "UPSTREAM_MAX_ATTEMPTS",
        "2",
        "Attempts in all, the first included; 1 never sends a request again.",
    ),
    setting(
        "RETRY_BACKOFF_SECONDS",
        "0.25",
        "Pause between attempts; 0 = none.",
    ),
    setting(
        "RETRY_BUDGET_PERCENT",
        UNSET,
        "Share of recent requests, 1 to 100, that may be sent again. Counted on each worker over \
         60 seconds; 3 replays in them are free. Unset = no limit.",
    ),
    setting(
        "CONNECT_TIMEOUT_SECONDS",
        "10",
        "Resolving, connecting and the handshakes of OUTBOUND_PROXY and TLS together.",
    ),
    setting(
        "WRITE_TIMEOUT_SECONDS",
        "30",
        "Sending the request, without progress.",
    ),
    setting(
        "POOL_TIMEOUT_SECONDS",
        "10",
        "Waiting for a connection when UPSTREAM_MAX_CONNECTIONS is reached.",
    ),
    setting(
        "STREAM_IDLE_TIMEOUT_SECONDS",
        "0",
        "Silence within a response that aborts it; 0 = no limit.",
    ),
    setting(
        "MAX_REQUEST_BODY_BYTES",
        "33554432",
        "Largest request body.",
    ),
    setting(
        "MAX_BUFFERED_BYTES",
        "1073741824",
        "All request bodies held at the same time; one too many is refused with 503.",
    ),
    setting(
        "MAX_CLIENT_CONNECTIONS",
        "10000",
        "Connections of clients at the same time; requests on more are refused with 503.",
    ),
    setting(
        "UPSTREAM_CA_FILE",
        UNSET,
        "PEM file with roots added to the built-in ones. While unset, SSL_CERT_FILE is honoured \
         the same way.",
    ),
    setting(
        "UPSTREAM_CLIENT_CERT_FILE",
        UNSET,
        "PEM file with the certificate for an upstream that asks for one, and with those between it \
         and its root.",
    ),
    setting(
        "UPSTREAM_CLIENT_KEY_FILE",
        UNSET,
        "PEM file with its key, not encrypted; may be the same file.",
    ),
    setting(
        "UPSTREAM_MAX_CONNECTIONS",
        "0",
        "Connections to upstream, of all workers together; 0 = no limit. Fewer than WORKERS lowers \
         WORKERS.",
    ),
    setting(
        "UPSTREAM_IDLE_TIMEOUT_SECONDS",
        "30",
        "How long an idle connection to upstream is kept.",
    ),
    setting(
        "OUTBOUND_PROXY",
        UNSET,
        "Proxy that connections to upstream go through: socks5:// (given addresses), socks5h:// \
         (given names) or http:// (CONNECT), with or without user:password@, port 1080 unless \
         written. HTTP_PROXY and its like are not honoured.",
    ),
    setting(
        "CLIENT_HEADER_TIMEOUT_SECONDS",
        "30",
        "Receiving the head of a request.",
    ),
    setting(
        "CLIENT_BODY_TIMEOUT_SECONDS",
        "60",
        "Receiving the body of a request, between bytes.",
    ),
    setting(
        "CLIENT_IDLE_TIMEOUT_SECONDS",
        "75",
        "How long a client's connection may rest between two requests.",
    ),
    setting(
        "CLIENT_WRITE_TIMEOUT_SECONDS",
        "300",
        "Sending the response, without progress.",
    ),
    setting(
        "DRAIN_TIMEOUT_SECONDS",
        "30",
        "How long responses may go on after SIGTERM or SIGINT; 0 = not at all.",
    ),
    setting(
        "WORKERS",
        "cores",
        "Threads, each with a listener of its own. Default: as many as the cores this process may \
         use.",
    ),
    setting(
        "LOG_LEVEL",
        "INFO",
        "TRACE, DEBUG, INFO, WARNING, ERROR, CRITICAL or OFF.",
    ),
    setting("LOG_FORMAT", "text", "text or json."),
    setting(
        "ADMIN_PORT",
        UNSET,
        "Port of the admin listener: a page to look at, /metrics, /status.json, /healthz. Unset = \
         off; 0 lets the kernel choose. Never LISTEN_PORT.",
    ),
    setting(
        "ADMIN_HOST",
        "127.0.0.1",
        "IP address of the admin listener, which asks for no token. On loopback it answers only \
         where Host is an IP address or localhost.",
    ),
];

const fn setting(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting {
        name,
        default,
        meaning,
    }
}

/// The default of a variable that has a value for one.
pub(super) fn default_of(name: &str) -> &'static str {
    SETTINGS
        .iter()
        .find(|setting| setting.name == name)
        .expect("every variable that is read stands in the table")
        .default
}
