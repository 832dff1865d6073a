"""The openai package of Node."""

import json
import os
import pathlib
import subprocess
import threading

import origin as upstream
import readme
from api import TEXT
from scenario import CAUSE, HOPELESS, INSTALLED, RESCUE, behind, costs, has_left, scenario, was_rescued

CLIENT = "openai (Node)"
DRIVER = pathlib.Path(__file__).with_name("node_sdk.mjs").read_text()
COMPLETED = ["response.completed", TEXT]


def start(proxy, task, option=""):
    """Node with the client that the README makes, on its way to do `task`."""
    program = readme.snippet("SDKs and curl", "js", proxy) + DRIVER
    return subprocess.Popen(
        ["node", "--input-type=module", "--eval", program, "--", task, str(option)],
        cwd=INSTALLED / "node",
        env={"PATH": os.environ["PATH"], "OPENAI_API_KEY": "sk-client"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


def told(proxy, task, option=""):
    """All that came of it."""
    text, _ = start(proxy, task, option).communicate(timeout=120)
    return [json.loads(line) for line in text.splitlines()]


@scenario(CLIENT, "healthy")
def _():
    with behind(upstream.healthy) as (origin, proxy):
        assert told(proxy, "ask")[-2:] == COMPLETED
        assert told(proxy, "chat") == [TEXT]
        assert {sent.fields["authorization"] for sent in origin.ledger} == {"Bearer sk-client"}


@scenario(CLIENT, "slow")
def _():
    with behind(upstream.slow) as (origin, proxy):
        assert told(proxy, "ask")[-2:] == COMPLETED and origin.sends == 1


@scenario(CLIENT, "hangs once")
def _():
    with behind(upstream.hangs, upstream.healthy, **RESCUE) as (origin, proxy):
        assert told(proxy, "ask")[-2:] == COMPLETED
        return was_rescued(origin, proxy)


@scenario(CLIENT, "resets once")
def _():
    with behind(upstream.resets, upstream.healthy, **RESCUE) as (origin, proxy):
        assert told(proxy, "ask")[-2:] == COMPLETED
        return was_rescued(origin, proxy)


@scenario(CLIENT, "hangs always")
def _():
    return hangs_always("OpenAI SDK, its default of 2 retries", "ask")


@scenario(CLIENT, "hangs always, no retries")
def _():
    return hangs_always("OpenAI SDK, `max_retries=0`", "ask without retries")


def hangs_always(client, task):
    with behind(upstream.hangs, **HOPELESS) as (origin, proxy):
        (error,) = told(proxy, task)
        assert (error["status"], error["code"]) == (504, "upstream_header_timeout"), error
        assert CAUSE in error["message"], error
        return costs(client, origin, proxy)


@scenario(CLIENT, "cut in the middle")
def _():
    with behind(upstream.cut) as (origin, proxy):
        *_, error = told(proxy, "ask")
        proxy.logs("aborted")
        assert "name" in error and origin.sends == 1, error
        return f"{error['name']}: {error['message']}"


@scenario(CLIENT, "words come as they are sent")
def _():
    seen = threading.Event()
    with behind(upstream.waits_for(seen)) as (origin, proxy), start(proxy, "ask") as node:
        for line in node.stdout:
            if json.loads(line) == "response.output_text.delta":
                seen.set()
        assert json.loads(line) == TEXT, line


@scenario(CLIENT, "429")
def _():
    with behind(upstream.too_many_requests, upstream.healthy) as (origin, proxy):
        assert told(proxy, "ask")[-2:] == COMPLETED
        proxy.ended(answered=2)
        assert origin.sends == 2
        return "2 sends, both the client's"


@scenario(CLIENT, "large upload, hangs once")
def _():
    with behind(upstream.hangs, upstream.healthy, **RESCUE) as (origin, proxy):
        (size,) = told(proxy, "upload", 24)
        assert all(b"0123456789abcdef" * (24 << 16) in sent.body for sent in origin.ledger), size
        return was_rescued(origin, proxy)


@scenario(CLIENT, "upload over the limit")
def _():
    with behind(upstream.healthy) as (origin, proxy):
        (error,) = told(proxy, "upload", 48)
        assert (error.get("status"), error.get("code")) == (413, "request_body_too_large"), error
        assert "MAX_REQUEST_BODY_BYTES" in error["message"] and origin.sends == 0, error


@scenario(CLIENT, "early 413 and 401")
def _():
    for status, code in [("413 Content Too Large", 413), ("401 Unauthorized", 401)]:
        with behind(upstream.refuses(status, "not with this upstream")) as (origin, proxy):
            (error,) = told(proxy, "upload", 24)
            assert error.get("status") == code and "not with this upstream" in error["message"], error
            assert origin.sends == 1, origin.sends


@scenario(CLIENT, "interim responses")
def _():
    # Not 100: fetch takes one that it has not asked for as an error, with or without a proxy.
    with behind(upstream.interim("102 Processing", "103 Early Hints")) as (origin, proxy):
        assert told(proxy, "ask")[-2:] == COMPLETED and origin.sends == 1


@scenario(CLIENT, "leaves while it waits")
def _():
    with behind(upstream.hangs) as (origin, proxy):
        (error,) = told(proxy, "leave while waiting", 1500)
        assert "name" in error, error
        return has_left(origin, proxy)


@scenario(CLIENT, "leaves during the response")
def _():
    with behind(upstream.stalls) as (origin, proxy):
        assert told(proxy, "leave in the response") == ["response.created"]
        return has_left(origin, proxy)
