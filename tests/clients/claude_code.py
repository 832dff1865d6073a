"""Claude Code, as its package installs it."""

import contextlib
import os
import platform
import shlex

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

# The program itself: the package would have it copied by a script when it is installed.
ARCH = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
PROGRAM = INSTALLED / f"node/node_modules/@anthropic-ai/claude-code-linux-{ARCH}/claude"


@contextlib.contextmanager
def home(proxy):
    """A home of its own; yields the command of a turn, with the variables that the README exports, and
    the options to run it with."""
    exports = readme.snippet("Claude Code", "sh", proxy)
    with folder() as path:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": path,
            "ANTHROPIC_API_KEY": "sk-ant-client",
            # Nobody listens there: what does not go to the proxy goes nowhere.
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "NO_PROXY": "127.0.0.1",
        }
        command = f"{exports}\nexec {shlex.quote(str(PROGRAM))} -p 'Say hello'"
        yield ["bash", "-euc", command], {"cwd": path, "env": environment}


def turn(proxy):
    with home(proxy) as (command, options):
        return call(command, **options)


@scenario("Claude Code", "healthy")
def _():
    with behind(upstream.healthy) as (origin, proxy):
        done = turn(proxy)
        assert done.returncode == 0 and done.stdout.strip() == TEXT, done
        (sent,) = origin.ledger
        assert sent.path.startswith("/v1/messages") and sent.fields["x-api-key"] == "sk-ant-client", sent


@scenario("Claude Code", "hangs once")
def _():
    with behind(upstream.hangs, upstream.healthy, **RESCUE) as (origin, proxy):
        done = turn(proxy)
        assert done.returncode == 0 and done.stdout.strip() == TEXT and not done.stderr, done
        return was_rescued(origin, proxy)


@scenario("Claude Code", "resets once")
def _():
    with behind(upstream.resets, upstream.healthy, **RESCUE) as (origin, proxy):
        done = turn(proxy)
        assert done.returncode == 0 and done.stdout.strip() == TEXT and not done.stderr, done
        return was_rescued(origin, proxy)


@scenario("Claude Code", "leaves while it waits")
def _():
    with behind(upstream.hangs) as (origin, proxy), home(proxy) as (command, options):
        interrupt(origin, command, **options)
        return has_left(origin, proxy)


@scenario("Claude Code", "hangs always")
def _():
    with behind(upstream.hangs, **HOPELESS) as (origin, proxy):
        done = turn(proxy)
        assert done.returncode != 0 and CAUSE in done.stdout, done
        return costs("Claude Code, as configured above", origin, proxy)


@scenario("Claude Code", "cut in the middle")
def _():
    with behind(upstream.cut) as (origin, proxy):
        done = turn(proxy)
        # "Connection closed mid-response", or "Connection to the API was lost" when all came at once.
        assert done.returncode != 0 and "API Error: Connection" in done.stdout, done
        assert TEXT not in done.stdout or "may be incomplete" in done.stdout, done
        proxy.ended(aborted=origin.sends)
