"""The anthropic package of Python."""

import os

import anthropic

import origin as upstream
import readme
from api import TEXT
from scenario import CAUSE, HOPELESS, RESCUE, behind, costs, scenario, was_rescued

CLIENT = "anthropic (Python)"
QUESTION = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Say hello"}]}


def connect(proxy, key="sk-ant-client", **options):
    """The client that the README makes."""
    scope = {}
    os.environ["ANTHROPIC_API_KEY"] = "sk-ant-client"
    exec(readme.snippet("SDKs and curl", "python", proxy, "Anthropic("), scope)
    return scope["client"].with_options(**{"timeout": 60, "api_key": key} | options)


def ask(client):
    with client.messages.stream(**QUESTION) as stream:
        message = stream.get_final_message()
    assert message.stop_reason == "end_turn", message
    return message.content[0].text


@scenario(CLIENT, "healthy")
def _():
    with behind(upstream.healthy) as (origin, proxy):
        client = connect(proxy)
        assert ask(client) == TEXT
        assert client.messages.create(**QUESTION).content[0].text == TEXT
        # Older versions of the package write x-api-key.
        assert [sent.fields["authorization"] for sent in origin.ledger] == 2 * ["Bearer sk-ant-client"]


@scenario(CLIENT, "the proxy holds the key")
def _():
    settings = readme.settings("api.anthropic.com")
    with behind(upstream.healthy, **settings) as (origin, proxy):
        assert ask(connect(proxy, settings["PROXY_ACCESS_TOKEN"])) == TEXT
        try:
            ask(connect(proxy, "another-token"))
            raise AssertionError("a wrong token will do")
        except anthropic.AuthenticationError as error:
            assert "PROXY_ACCESS_TOKEN" in str(error), error
        (sent,) = origin.ledger
        assert sent.fields["x-api-key"] == settings["UPSTREAM_API_KEY"]
        assert settings["PROXY_ACCESS_TOKEN"].encode() not in sent.head


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
    with behind(upstream.hangs, **HOPELESS) as (origin, proxy):
        try:
            raise AssertionError(ask(connect(proxy)))
        except anthropic.InternalServerError as error:
            assert error.status_code == 504 and CAUSE in str(error), error
        return costs("Anthropic SDK, its default of 2 retries", origin, proxy)


@scenario(CLIENT, "cut in the middle")
def _():
    with behind(upstream.cut) as (origin, proxy):
        try:
            text = ask(connect(proxy))
        except Exception as error:
            proxy.logs("aborted")
            assert not isinstance(error, AssertionError) and origin.sends == 1, error
            return type(error).__name__
        raise AssertionError(text)
