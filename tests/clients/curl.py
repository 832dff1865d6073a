"""curl, as the README calls it, and with what it alone can do."""

import json
import os
import subprocess
import threading

import origin as upstream
import readme
from scenario import CAUSE, HOPELESS, RESCUE, behind, call, has_left, scenario, was_rescued

DATA = ["-d", '{"model":"m","input":"Say hello","stream":true}']


def as_in_readme(proxy):
    """The README's command."""
    command = readme.snippet("SDKs and curl", "sh", proxy).rstrip()
    return call(["bash", "-euc", command], env={"PATH": os.environ["PATH"], "OPENAI_API_KEY": "sk-client"})


def curl(proxy, *options, path="/v1/responses", **how):
    return call(["curl", "--silent", "--show-error", proxy.url + path, *options], **how)


def is_complete(done):
    assert done.returncode == 0 and '"response.completed"' in done.stdout, done


@scenario("curl", "healthy")
def _():
    with behind(upstream.healthy) as (origin, proxy):
        is_complete(as_in_readme(proxy))
        (sent,) = origin.ledger
        assert sent.fields["authorization"] == "Bearer sk-client" and json.loads(sent.body)["stream"]
        is_complete(curl(proxy, "--http1.0", *DATA))


@scenario("curl", "hangs once")
def _():
    with behind(upstream.hangs, upstream.healthy, **RESCUE) as (origin, proxy):
        is_complete(as_in_readme(proxy))
        return was_rescued(origin, proxy)


@scenario("curl", "resets once")
def _():
    with behind(upstream.resets, upstream.healthy, **RESCUE) as (origin, proxy):
        is_complete(as_in_readme(proxy))
        return was_rescued(origin, proxy)


@scenario("curl", "hangs always")
def _():
    with behind(upstream.hangs, **HOPELESS) as (origin, proxy):
        done = as_in_readme(proxy)
        error = json.loads(done.stdout)["error"]
        assert error["code"] == "upstream_header_timeout" and CAUSE in error["message"], error
        assert origin.sends == 2
        return "2 sends"


@scenario("curl", "cut in the middle")
def _():
    with behind(upstream.cut) as (origin, proxy):
        done = as_in_readme(proxy)
        assert done.returncode in (18, 56), done  # a partial file, or a failure to receive
        assert curl(proxy, "--http1.0", *DATA).returncode == 56  # no length and no chunks: a reset
        assert origin.sends == 2


@scenario("curl", "words come as they are sent")
def _():
    seen = threading.Event()
    with behind(upstream.waits_for(seen)) as (origin, proxy):
        command = ["curl", "--silent", "--no-buffer", proxy.url + "/v1/responses", *DATA]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            for line in running.stdout:
                if "response.output_text.delta" in line:
                    seen.set()
        assert running.returncode == 0


@scenario("curl", "large upload, hangs once")
def _():
    content = os.urandom(24 << 20)
    # With a length, for which it expects a 100 first, and without.
    for options in [["--data-binary", "@-"], ["-T", "-", "-X", "POST"]]:
        with behind(upstream.hangs, upstream.healthy, **RESCUE) as (origin, proxy):
            done = curl(proxy, *options, path="/v1/files", input=content, stdin=None, text=False)
            assert json.loads(done.stdout)["bytes"] == len(content), done
            assert all(sent.body == content and "expect" not in sent.fields for sent in origin.ledger)
            note = was_rescued(origin, proxy)
    return note


@scenario("curl", "upload over the limit")
def _():
    # Whether it says how much there is or not, and waits for a 100 or not.
    for options in [["--data-binary", "@-"], ["--data-binary", "@-", "-H", "Expect:"], ["-T", "-"]]:
        with behind(upstream.healthy) as (origin, proxy):
            done = curl(proxy, *options, input=bytes(48 << 20), stdin=None, text=False)
            assert json.loads(done.stdout)["error"]["code"] == "request_body_too_large", done
            assert origin.sends == 0


@scenario("curl", "early 413")
def _():
    with behind(upstream.refuses("413 Content Too Large", "not with this upstream")) as (origin, proxy):
        done = curl(proxy, "--data-binary", "@-", input=bytes(24 << 20), stdin=None, text=False)
        assert json.loads(done.stdout)["error"]["message"] == "not with this upstream", done
        assert origin.sends == 1


@scenario("curl", "interim responses")
def _():
    with behind(upstream.interim("100 Continue", "103 Early Hints")) as (origin, proxy):
        done = curl(proxy, "--include", *DATA)
        is_complete(done)
        heads = [line for line in done.stdout.splitlines() if line.startswith("HTTP/1.1 ")]
        assert heads == ["HTTP/1.1 100 Continue", "HTTP/1.1 103 Early Hints", "HTTP/1.1 200 OK"], heads


@scenario("curl", "leaves while it waits")
def _():
    with behind(upstream.hangs) as (origin, proxy):
        assert curl(proxy, "--max-time", "1", *DATA).returncode == 28
        return has_left(origin, proxy)


@scenario("curl", "leaves during the response")
def _():
    with behind(upstream.stalls) as (origin, proxy):
        assert curl(proxy, "--max-time", "1", *DATA).returncode == 28
        return has_left(origin, proxy)
