"""The websockets package of Python."""

import os
import threading

from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect as open_websocket

import origin as upstream
from scenario import HOPELESS, behind, has_left, scenario

CLIENT = "websockets"
ONCE = {"UPGRADE_HEADER_TIMEOUT_SECONDS": "3"}


def connect(proxy):
    return open_websocket(f"ws://127.0.0.1:{proxy.port}/v1/responses", max_size=None, open_timeout=60, proxy=None)


def exchange(socket, message):
    socket.send(message)
    assert socket.recv(timeout=60) == message


@scenario(CLIENT, "healthy")
def _():
    with behind(upstream.echoes) as (origin, proxy):
        with connect(proxy) as socket:
            assert [extension.name for extension in socket.protocol.extensions] == ["permessage-deflate"]
            for message in ["Say hello", "x" * 100_000, os.urandom(4 << 20), b""]:
                exchange(socket, message)
            socket.ping().wait(60)
        # RFC 6455 7.1.1: it is the server that closes the connection, when both have said so.
        proxy.logs("tunnelled", "closed by the upstream")
        assert origin.sends == 1


@scenario(CLIENT, "healthy, TLS")
def _():
    with behind(upstream.echoes, tls=True) as (origin, proxy), connect(proxy) as socket:
        # Both ways at once, over one TLS session.
        messages = [os.urandom(1 << 16) for _ in range(64)]
        sender = threading.Thread(target=lambda: [socket.send(message) for message in messages])
        sender.start()
        assert [socket.recv(timeout=60) for _ in messages] == messages
        sender.join()


@scenario(CLIENT, "hangs once")
def _():
    with behind(upstream.hangs, upstream.echoes, **ONCE) as (origin, proxy), connect(proxy) as socket:
        exchange(socket, "Say hello")
        assert origin.sends == 2
        return "2 sends"


@scenario(CLIENT, "resets once")
def _():
    with behind(upstream.resets, upstream.echoes, **ONCE) as (origin, proxy), connect(proxy) as socket:
        exchange(socket, "Say hello")
        assert origin.sends == 2
        return "2 sends"


@scenario(CLIENT, "hangs always")
def _():
    with behind(upstream.hangs, **HOPELESS) as (origin, proxy):
        try:
            connect(proxy)
            raise AssertionError("it is open")
        except InvalidStatus as error:
            response = error.response
        assert response.status_code == 426 and response.headers["upgrade"] == "websocket", response
        assert b"upstream_header_timeout" in response.body and origin.sends == 2, response
        return "2 sends"


@scenario(CLIENT, "cut in the middle")
def _():
    with behind(upstream.hangs_up) as (origin, proxy), connect(proxy) as socket:
        socket.send("Say hello")
        try:
            socket.recv(timeout=60)
            raise AssertionError("an answer")
        except ConnectionClosedError as error:
            assert error.rcvd is None, error
        proxy.logs("tunnelled", "broken by the upstream")


@scenario(CLIENT, "leaves while it waits")
def _():
    with behind(upstream.hangs) as (origin, proxy):
        try:
            open_websocket(f"ws://127.0.0.1:{proxy.port}/", open_timeout=1, proxy=None)
            raise AssertionError("it is open")
        except TimeoutError:
            return has_left(origin, proxy)


@scenario(CLIENT, "leaves the tunnel")
def _():
    with behind(upstream.echoes) as (origin, proxy):
        socket = connect(proxy)
        exchange(socket, "Say hello")
        socket.socket.close()  # without a word
        assert origin.ledger[0].closed.wait(5), "the upstream connection is still open"
