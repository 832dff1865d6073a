"""What scenarios are made of: their list, and a proxy between a client and a scripted upstream."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import readme
from origin import DEADLINE, Certificate, Origin
from proxy import ROOT, Proxy

INSTALLED = pathlib.Path(os.environ.get("CLIENTS_INSTALLED", ROOT / "target/clients"))
"""Where `run` puts what it installs."""

RESCUE = {"RESPONSE_HEADER_TIMEOUT_SECONDS": "0.5", "LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS": "30"}
"""For an upstream that hangs once: given up soon, and the last attempt has all the time it needs."""

HOPELESS = {"RESPONSE_HEADER_TIMEOUT_SECONDS": "0.1", "UPGRADE_HEADER_TIMEOUT_SECONDS": "0.1"}
"""For an upstream that never answers."""

CAUSE = "no response from the upstream within 0.1 s (RESPONSE_HEADER_TIMEOUT_SECONDS); sent 2 times"
"""What the proxy tells of it."""

SCENARIOS = []


@dataclass
class Scenario:
    client: str
    name: str
    run: Callable
    alone: bool
    """It measures time, so nothing else may run."""


def scenario(client, name, alone=False):
    """Adds a function to the list. It raises where the scenario fails, and may return what it has
    measured."""

    def add(run):
        SCENARIOS.append(Scenario(client, name, run, alone))
        return run

    return add


@contextlib.contextmanager
def behind(*scripts, tls=False, **settings):
    """An upstream that follows `scripts`, and a proxy in front of it."""
    with contextlib.ExitStack() as stack:
        certificate = Certificate(stack.enter_context(folder())) if tls else None
        origin = stack.enter_context(Origin(*scripts, certificate=certificate))
        yield origin, stack.enter_context(Proxy(origin, **settings))


@contextlib.contextmanager
def folder():
    """A folder of one scenario's own. Not in /tmp, where Codex is loath to live."""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    path = tempfile.mkdtemp(dir=INSTALLED, prefix="scenario-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def call(command, **options):
    """Runs a program to its end; what it wrote comes as text."""
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 120} | options
    return subprocess.run(command, **options)


def interrupt(origin, command, **options):
    """Runs a program until it has sent a request, and stops it as a person would with Ctrl-C."""
    quiet = dict.fromkeys(["stdin", "stdout", "stderr"], subprocess.DEVNULL)
    running = subprocess.Popen(command, start_new_session=True, **quiet, **options)
    origin.wait("a request", lambda: origin.ledger and origin.ledger[0].body)
    # It may be the child of a script: both get the signal.
    os.killpg(running.pid, signal.SIGINT)
    running.wait(DEADLINE)


def was_rescued(origin, proxy):
    """One request, sent twice: the same bytes on two connections. The client has its answer."""
    first, second = origin.ledger
    assert first.body == second.body and first.path == second.path
    assert first.connection != second.connection
    proxy.ended(rescued=1)
    return "2 sends"


def costs(client, origin, proxy):
    """An upstream that never answers has cost what the README says of `client`."""
    requests, sends = readme.cost(client)
    proxy.ended(exhausted=requests)
    assert origin.sends == sends, origin.sends
    return f"{requests} requests, {sends} sends"


def has_left(origin, proxy):
    """The client has gone, the upstream connection is closed and nothing was sent again."""
    proxy.logs("client left")
    assert origin.ledger[0].closed.wait(5), "the upstream connection is still open"
    assert origin.sends == 1, origin.sends
    return "1 send"
