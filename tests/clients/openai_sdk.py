"""The openai package of Python."""

import io
import os
import threading
import time

import openai

import origin as upstream
import readme
from api import TEXT
from scenario import CAUSE, HOPELESS, RESCUE, behind, costs, has_left, scenario, was_rescued

CLIENT = "openai (Python)"
LARGE = os.urandom(24 << 20)
"""Some tens of MB, with nothing in it that could be mistaken for something else."""


def connect(proxy, **options):
    """The client that the README makes."""
    scope = {}
    os.environ["OPENAI_API_KEY"] = "sk-client"
    exec(readme.snippet("SDKs and curl", "python", proxy, "OpenAI("), scope)
    # Not the ten minutes that it would wait.
    return scope["client"].with_options(**{"timeout": 60} | options)


def ask(client):
    """The text of a streamed response that came to its end."""
    text, ended = "", False
    for event in client.responses.create(model="m", input="Say hello", stream=True):
        text += f"{event.delta} " if event.type == "response.output_text.delta" else ""
        ended |= event.type == "response.completed"
    assert ended, "the stream ended like one that is complete"
    return text.strip()


def upload(client, content=LARGE):
    return client.files.create(file=("large.bin", io.BytesIO(content)), purpose="batch")


def fails(kind, call, *arguments):
    try:
        answer = call(*arguments)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} but {answer!r}")


@scenario(CLIENT, "healthy")
def _():
    with behind(upstream.healthy) as (origin, proxy):
        client = connect(proxy)
        assert ask(client) == TEXT
        messages = [{"role": "user", "content": "Say hello"}]
        completion = client.chat.completions.create(model="m", messages=messages)
        assert completion.choices[0].message.content == TEXT
        chunks = client.chat.completions.create(model="m", messages=messages, stream=True)
        words = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert " ".join(words).strip() == TEXT
        assert [sent.fields["authorization"] for sent in origin.ledger] == 3 * ["Bearer sk-client"]


@scenario(CLIENT, "slow")
def _():
    with behind(upstream.slow) as (origin, proxy):
        assert ask(connect(proxy)) == TEXT and origin.sends == 1


@scenario(CLIENT, "hangs once")
def _():
    with behind(upstream.hangs, upstream.healthy, **RESCUE) as (origin, proxy):
        assert ask(connect(proxy)) == TEXT
        return was_rescued(origin, proxy)


@scenario(CLIENT, "resets once")
def _():
    with behind(upstream.resets, upstream.healthy, **RESCUE) as (origin, proxy):
        assert ask(connect(proxy)) == TEXT
        return was_rescued(origin, proxy)


@scenario(CLIENT, "hangs always")
def _():
    return hangs_always("OpenAI SDK, its default of 2 retries", {})


@scenario(CLIENT, "hangs always, no retries")
def _():
    return hangs_always("OpenAI SDK, `max_retries=0`", {"max_retries": 0})


def hangs_always(client, options):
    with behind(upstream.hangs, **HOPELESS) as (origin, proxy):
        error = fails(openai.InternalServerError, ask, connect(proxy, **options))
        assert (error.status_code, error.code) == (504, "upstream_header_timeout"), error
        assert CAUSE in str(error), error
        return costs(client, origin, proxy)


@scenario(CLIENT, "cut in the middle")
def _():
    with behind(upstream.cut) as (origin, proxy):
        error = fails(Exception, ask, connect(proxy))
        assert not isinstance(error, AssertionError), error
        proxy.logs("aborted")
        assert origin.sends == 1
        return type(error).__name__


@scenario(CLIENT, "words come as they are sent")
def _():
    seen = threading.Event()
    with behind(upstream.waits_for(seen)) as (origin, proxy):
        for event in connect(proxy).responses.create(model="m", input="Say hello", stream=True):
            if event.type == "response.output_text.delta":
                seen.set()
        assert event.type == "response.completed", event


@scenario(CLIENT, "the proxy stops meanwhile")
def _():
    seen = threading.Event()
    with behind(upstream.waits_for(seen)) as (origin, proxy):
        for event in connect(proxy).responses.create(model="m", input="Say hello", stream=True):
            if event.type == "response.output_text.delta" and not seen.is_set():
                proxy.process.terminate()
                proxy.logs("draining")
                seen.set()
        assert event.type == "response.completed", event
        assert proxy.process.wait(upstream.DEADLINE) == 0


@scenario(CLIENT, "429")
def _():
    with behind(upstream.too_many_requests, upstream.healthy) as (origin, proxy):
        begun = time.monotonic()
        assert ask(connect(proxy)) == TEXT
        assert time.monotonic() - begun > 0.3, "it did not wait as it was told"
        proxy.ended(answered=2)
        assert origin.sends == 2
        return "2 sends, both the client's"


@scenario(CLIENT, "large upload, hangs once")
def _():
    with behind(upstream.hangs, upstream.healthy, **RESCUE) as (origin, proxy):
        upload(connect(proxy))
        assert all(LARGE in sent.body for sent in origin.ledger)
        return was_rescued(origin, proxy)


@scenario(CLIENT, "upload over the limit")
def _():
    with behind(upstream.healthy) as (origin, proxy):
        error = fails(openai.APIStatusError, upload, connect(proxy), LARGE + LARGE)
        assert (error.status_code, error.code) == (413, "request_body_too_large"), error
        assert "MAX_REQUEST_BODY_BYTES" in str(error) and origin.sends == 0, error


@scenario(CLIENT, "early 413 and 401")
def _():
    for status, code in [("413 Content Too Large", 413), ("401 Unauthorized", 401)]:
        with behind(upstream.refuses(status, "not with this upstream")) as (origin, proxy):
            error = fails(openai.APIStatusError, upload, connect(proxy))
            assert error.status_code == code and "not with this upstream" in str(error), error
            assert origin.sends == 1, origin.sends


@scenario(CLIENT, "interim responses")
def _():
    with behind(upstream.interim("100 Continue", "103 Early Hints")) as (origin, proxy):
        assert ask(connect(proxy)) == TEXT and origin.sends == 1


@scenario(CLIENT, "leaves while it waits")
def _():
    with behind(upstream.hangs) as (origin, proxy):
        fails(openai.APITimeoutError, ask, connect(proxy, timeout=1, max_retries=0))
        return has_left(origin, proxy)


@scenario(CLIENT, "leaves during the response")
def _():
    with behind(upstream.stalls) as (origin, proxy):
        stream = connect(proxy).responses.create(model="m", input="Say hello", stream=True)
        assert next(iter(stream)).type == "response.created"
        stream.close()
        return has_left(origin, proxy)


@scenario(CLIENT, "time of a request", alone=True)
def _():
    with behind(upstream.healthy) as (origin, proxy):
        through = connect(proxy)
        clients = {"through": through, "direct": through.with_options(base_url=f"{origin.url}/v1")}
        times = {way: [] for way in clients}
        for _ in range(40):
            for way, client in clients.items():
                begun = time.perf_counter()
                assert ask(client) == TEXT
                times[way].append(1000 * (time.perf_counter() - begun))
        middle = {way: sorted(taken)[len(taken) // 2] for way, taken in times.items()}
        assert middle["through"] < 3 * middle["direct"] + 50, middle
        return "{through:.1f} ms through the proxy, {direct:.1f} ms without it".format(**middle)
