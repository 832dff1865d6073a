"""Codex, as its package installs it: one process for each turn, and nothing of it may leave the machine."""

import base64
import contextlib
import datetime
import json
import os
import pathlib
import re
import socket
import statistics
import time

import origin as upstream
import readme
from api import TEXT
from scenario import (
    CAUSE,
    HOPELESS,
    INSTALLED,
    RESCUE,
    behind,
    call,
    costs,
    folder,
    has_left,
    interrupt,
    scenario,
    was_rescued,
)

PROGRAM = INSTALLED / "node/node_modules/.bin/codex"
API_KEY, LOGIN, SHORT = "Codex, API key", "Codex, ChatGPT login", "Codex, the short form"
LAST_EVENT = re.compile(rb'"type": "response.completed".*\n\n\r\n', re.S)
RETRIES = re.compile(r"^\w+_max_retries = .*\n", re.M)


@contextlib.contextmanager
def home(proxy, form=API_KEY, change=lambda config: config):
    """A home configured as this section of the README says, with a `change`; yields the command of a
    turn and the options to run it with."""
    with folder() as path:
        pathlib.Path(path, "config.toml").write_text(change(readme.snippet(form, "toml", proxy)))
        environment = {
            "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}",
            "HOME": path,
            "CODEX_HOME": path,
            # Nobody listens there: what does not go to the proxy goes nowhere.
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "HTTP_PROXY": "http://127.0.0.1:9",
            "NO_PROXY": "127.0.0.1",
        }
        if form == LOGIN:
            pathlib.Path(path, "auth.json").write_text(json.dumps(login_tokens()))
        else:
            environment["OPENAI_API_KEY"] = "sk-client"
        if form == SHORT:
            done = call(["bash", "-euc", readme.snippet(form, "sh", proxy)], env=environment)
            assert done.returncode == 0, done
        work = pathlib.Path(path, "work")
        work.mkdir()
        yield [PROGRAM, "exec", "--skip-git-repo-check", "-C", work, "Say hello"], {"env": environment}


def login_tokens():
    """What a ChatGPT login leaves behind, good for a week."""

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    account = {"chatgpt_plan_type": "pro", "chatgpt_account_id": "account-1", "chatgpt_user_id": "user-1"}
    claims = {"exp": int(time.time()) + 7 * 86400, "email": "a@b.example"}
    token = ".".join(map(part, [{"alg": "none"}, claims | {"https://api.openai.com/auth": account}, "signature"]))
    tokens = {"id_token": token, "access_token": token, "refresh_token": "none", "account_id": "account-1"}
    now = datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z")
    return {"auth_mode": "chatgpt", "OPENAI_API_KEY": None, "tokens": tokens, "last_refresh": now}


def turn(proxy, *how):
    with home(proxy, *how) as (command, options):
        return call(command, **options)


def succeeds(done):
    """The answer and nothing of what it took to get it."""
    assert done.returncode == 0 and done.stdout.strip() == TEXT, done
    assert "Reconnecting" not in done.stderr and "ERROR: " not in done.stderr, done.stderr


def fails(done, message):
    assert done.returncode != 0 and TEXT not in done.stdout, done
    assert f"ERROR: {message}" in done.stderr, done.stderr


@scenario("Codex", "healthy")
def _():
    with behind(upstream.healthy) as (origin, proxy):
        succeeds(turn(proxy))
        (sent,) = origin.ledger
        assert (sent.transport, sent.path) == ("POST", "/v1/responses"), sent
        assert sent.fields["authorization"] == "Bearer sk-client"


@scenario("Codex", "healthy, ChatGPT login")
def _():
    with behind(upstream.healthy) as (origin, proxy):
        succeeds(turn(proxy, LOGIN))
        (sent,) = origin.ledger
        assert (sent.transport, sent.path) == ("POST", "/backend-api/codex/responses"), sent
        assert sent.fields["chatgpt-account-id"] == "account-1"


@scenario("Codex", "healthy, WebSocket, TLS")
def _():
    with behind(upstream.healthy, tls=True) as (origin, proxy):
        succeeds(turn(proxy, SHORT))
        assert origin.by_transport() == {"WebSocket": 1}, origin.by_transport()
        proxy.logs("tunnelled", "closed by the client")
        fields = origin.ledger[0].fields
        assert fields["authorization"] == "Bearer sk-client", fields
        assert "permessage-deflate" in fields["sec-websocket-extensions"], fields


@scenario("Codex", "WebSocket refused")
def _():
    with behind(upstream.to_handshakes(upstream.no_websocket)) as (origin, proxy):
        succeeds(turn(proxy, SHORT))
        assert origin.by_transport() == {"WebSocket": 1, "POST": 1}, origin.by_transport()


@scenario("Codex", "WebSocket hangs always")
def _():
    # With the limits as they are: all attempts have to fit into the 15 s that Codex waits.
    with behind(upstream.to_handshakes(upstream.hangs)) as (origin, proxy):
        succeeds(turn(proxy, SHORT))
        assert origin.by_transport() == {"WebSocket": 2, "POST": 1}, origin.by_transport()
        return "2 handshakes, 1 POST"


@scenario("Codex", "WebSocket cut in the middle")
def _():
    with behind(upstream.to_handshakes(upstream.hangs_up)) as (origin, proxy):
        done = turn(proxy, SHORT)
        # It opens tunnels anew, says so, and in the end uses POST.
        assert done.returncode == 0 and done.stdout.strip() == TEXT, done
        assert "Falling back from WebSockets" in done.stderr, done.stderr
        counts = origin.by_transport()
        assert counts["POST"] == 1 and counts["WebSocket"] > 1, counts
        proxy.ended(tunnelled=counts["WebSocket"], answered=1)
        return f"{counts['WebSocket']} handshakes, 1 POST"


@scenario("Codex", "the proxy holds the key")
def _():
    settings = readme.settings("api.openai.com") | {"PROXY_ACCESS_TOKEN": "sk-client"}
    with behind(upstream.healthy, **settings) as (origin, proxy):
        succeeds(turn(proxy))
        succeeds(turn(proxy, SHORT))
        assert origin.by_transport() == {"POST": 1, "WebSocket": 1}, origin.by_transport()
        key = f"Bearer {settings['UPSTREAM_API_KEY']}"
        assert [sent.fields["authorization"] for sent in origin.ledger] == [key, key]


@scenario("Codex", "slow")
def _():
    with behind(upstream.slow) as (origin, proxy):
        succeeds(turn(proxy))
        assert origin.sends == 1


@scenario("Codex", "hangs once")
def _():
    with behind(upstream.hangs, upstream.healthy, **RESCUE) as (origin, proxy):
        succeeds(turn(proxy))
        return was_rescued(origin, proxy)


@scenario("Codex", "hangs once, TLS")
def _():
    with behind(upstream.hangs, upstream.healthy, tls=True, **RESCUE) as (origin, proxy):
        succeeds(turn(proxy))
        return was_rescued(origin, proxy)


@scenario("Codex", "hangs once, WebSocket")
def _():
    settings = {"UPGRADE_HEADER_TIMEOUT_SECONDS": "3"}
    with behind(upstream.hangs, upstream.healthy, **settings) as (origin, proxy):
        succeeds(turn(proxy, SHORT))
        assert origin.by_transport() == {"WebSocket": 2}, origin.by_transport()
        return "2 sends"


@scenario("Codex", "resets once")
def _():
    with behind(upstream.resets, upstream.healthy, **RESCUE) as (origin, proxy):
        succeeds(turn(proxy))
        return was_rescued(origin, proxy)


@scenario("Codex", "hangs always")
def _():
    with behind(upstream.hangs, **HOPELESS) as (origin, proxy):
        fails(turn(proxy), f"unexpected status 504 Gateway Timeout: {CAUSE}")
        return costs("Codex, as configured above", origin, proxy)


@scenario("Codex", "hangs always, its defaults")
def _():
    with behind(upstream.hangs, **HOPELESS) as (origin, proxy):
        done = turn(proxy, API_KEY, lambda config: RETRIES.sub("", config))
        fails(done, f"unexpected status 504 Gateway Timeout: {CAUSE}")
        return costs("Codex, its defaults", origin, proxy)


@scenario("Codex", "hangs always, WebSocket")
def _():
    with behind(upstream.hangs, **HOPELESS) as (origin, proxy):
        fails(turn(proxy, SHORT), f"unexpected status 504 Gateway Timeout: {CAUSE}")
        return costs("Codex, the short form", origin, proxy)


@scenario("Codex", "cut in the middle")
def _():
    with behind(upstream.cut) as (origin, proxy):
        fails(turn(proxy), "stream disconnected before completion")
        # It asks anew, as often as it is configured to. Nothing is sent again by the proxy.
        proxy.ended(aborted=3)
        assert origin.sends == 3, origin.sends
        return "3 sends, all of them the client's"


@scenario("Codex", "early 413")
def _():
    with behind(upstream.refuses("413 Content Too Large", "too large for this upstream")) as (origin, proxy):
        fails(turn(proxy), "unexpected status 413 Payload Too Large: too large for this upstream")
        proxy.ended(answered=origin.sends)


@scenario("Codex", "interim responses")
def _():
    with behind(upstream.interim("100 Continue", "103 Early Hints")) as (origin, proxy):
        succeeds(turn(proxy))
        assert origin.sends == 1


@scenario("Codex", "leaves while it waits")
def _():
    with behind(upstream.hangs) as (origin, proxy), home(proxy) as (command, options):
        interrupt(origin, command, **options)
        return has_left(origin, proxy)


@scenario("Codex", "turns reuse a TLS connection")
def _():
    turns = 5
    with behind(upstream.ends_late, tls=True, WORKERS="1") as (origin, proxy):
        for _ in range(turns):
            succeeds(turn(proxy))
        assert origin.sends == turns and origin.connected == 1, (origin.sends, origin.connected)
        proxy.ended(answered=turns)
        return f"{turns} turns on 1 connection"


@scenario("Codex", "200 turns as it ends them, TLS", alone=True)
def _():
    """What a turn looks like on the wire: 40 KB up, and closed as soon as the last event is there."""
    turns, body = 200, b'{"stream":true,"input":"%s"}' % (b"x" * 40_000)
    head = f"POST /v1/responses HTTP/1.1\r\nhost: p\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with behind(upstream.ends_late, tls=True, WORKERS="2") as (origin, proxy):
        for number in range(turns):
            # One turn follows another when the person has read it: the connection is back by then.
            proxy.logs("  total ", times=number)
            with socket.create_connection(("127.0.0.1", proxy.port)) as client:
                client.sendall(head + body)
                received = b""
                while not LAST_EVENT.search(received):
                    data = client.recv(65536)
                    assert data, "closed before the last event"
                    received += data
        proxy.ended(answered=turns)
        pooled = 1 - origin.connected / turns
        left = sum("the client closed just before the end" in line for line in proxy.lines)
        assert pooled >= 0.95, f"{origin.connected} connections for {turns} turns"
        assert left > turns / 2, f"only {left} left before the end"
        return f"{pooled:.1%} on a pooled connection, {left} left before the end"


@scenario("Codex", "time of a turn", alone=True)
def _():
    class Direct:
        """Stands for a proxy where there is none."""

        def __init__(self, origin):
            self.url = origin.url

    with behind(upstream.healthy) as (origin, proxy):
        times = {"direct": [], "through": []}
        for _ in range(7):
            for way, to in [("direct", Direct(origin)), ("through", proxy)]:
                begun = time.monotonic()
                succeeds(turn(to))
                times[way].append(time.monotonic() - begun)
        direct, through = (statistics.median(times[way]) for way in ["direct", "through"])
        assert through < 1.5 * direct + 0.5, times
        return f"{through:.2f} s through the proxy, {direct:.2f} s without it: ratio {through / direct:.2f}"
