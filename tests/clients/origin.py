"""A scripted upstream: it speaks as much of the APIs as clients need, commits every fault they may
meet, and keeps a ledger of what it was sent. Blocking sockets, one thread for each connection."""

import contextlib
import json
import pathlib
import select
import socket
import ssl
import struct
import subprocess
import threading
import time
from dataclasses import dataclass, field

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Opcode
from websockets.server import ServerProtocol

from api import answer_to, responses_messages

DEADLINE = 30.0
"""How long anything may take that is expected at once: the machine may be busy."""


@dataclass
class Sent:
    """A request as it was sent once."""

    connection: int
    method: str
    path: str
    fields: dict
    head: bytes
    body: bytearray = field(default_factory=bytearray)
    closed: threading.Event = field(default_factory=threading.Event)
    """The other side closed or broke the connection while the request was being answered."""

    @property
    def transport(self):
        return "WebSocket" if "websocket" in self.fields.get("upgrade", "").lower() else self.method


class Gone(Exception):
    """The other side has closed or broken the connection."""


class Peer:
    """One connection, as a script uses it."""

    def __init__(self, sock):
        self.sock = sock
        self.received = b""

    def receive(self):
        try:
            data = self.sock.recv(1 << 18)
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        return data

    def send(self, data):
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise Gone from error

    def head(self, connection):
        """The next request, without its body."""
        while b"\r\n\r\n" not in self.received:
            self.received += self.receive()
        head, self.received = self.received.split(b"\r\n\r\n", 1)
        start, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = start.split(" ")
        fields = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        return Sent(connection, method, path, fields, head + b"\r\n\r\n")

    def body(self, sent):
        """Reads the body of `sent`: the proxy always says how long it is."""
        length = int(sent.fields.get("content-length", 0))
        while len(sent.body) < length:
            missing = length - len(sent.body)
            piece = self.received or self.receive()
            sent.body += piece[:missing]
            self.received = piece[missing:]

    def answer(self, status, body, *fields, kind="application/json"):
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *fields]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def begin_events(self):
        self.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

    def chunk(self, data):
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def end_events(self):
        self.send(b"0\r\n\r\n")

    def until_closed(self):
        """Waits for the other side to leave."""
        while True:
            self.receive()

    def reset(self):
        """Breaks the connection, with an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


# What is done with one request. Where a script returns True the connection serves another one.


def healthy(peer, sent):
    """The answer that the API of this path gives."""
    if sent.transport == "WebSocket":
        return converse(peer, sent)
    peer.body(sent)
    events, whole = answer_to(sent)
    if not events:
        peer.answer("200 OK", encoded(whole))
        return True
    peer.begin_events()
    for event in events:
        peer.chunk(event)
    peer.end_events()
    return True


def hangs(peer, sent):
    """Takes everything and stays silent."""
    peer.body(sent)
    peer.until_closed()


def resets(peer, sent):
    """Takes everything and breaks the connection."""
    peer.body(sent)
    peer.reset()


def cut(peer, sent):
    """Ends in the middle of the answer, without the last chunk."""
    peer.body(sent)
    peer.begin_events()
    for event in answer_to(sent)[0][:-2]:
        peer.chunk(event)


def stalls(peer, sent):
    """Falls silent in the middle of the answer."""
    peer.body(sent)
    peer.begin_events()
    peer.chunk(answer_to(sent)[0][0])
    peer.until_closed()


def waits_for(seen):
    """Sends the first words of the answer, and the rest when the client has `seen` them."""

    def script(peer, sent):
        peer.body(sent)
        peer.begin_events()
        *first, last = answer_to(sent)[0]
        for event in first:
            peer.chunk(event)
        if not seen.wait(DEADLINE):
            return False  # cut: the first words did not reach the client
        peer.chunk(last)
        peer.end_events()
        return True

    return script


def slow(peer, sent):
    """Takes its time before the answer, and between its events."""
    peer.body(sent)
    time.sleep(0.3)
    peer.begin_events()
    for event in answer_to(sent)[0]:
        peer.chunk(event)
        time.sleep(0.02)
    peer.end_events()
    return True


def ends_late(peer, sent):
    """The last event, and a little later the end of the message: who closes in between has left
    before the end."""
    peer.body(sent)
    peer.begin_events()
    for event in answer_to(sent)[0]:
        peer.chunk(event)
    time.sleep(0.005)
    peer.end_events()
    return True


def interim(*heads):
    """Interim responses before the answer."""

    def script(peer, sent):
        for head in heads:
            peer.send(f"HTTP/1.1 {head}\r\nLink: </hint>; rel=preload\r\n\r\n".encode())
        return healthy(peer, sent)

    return script


def refuses(status, message):
    """Answers after the head, and takes nothing of a body that is still to come."""

    def script(peer, sent):
        peer.answer(status, error(message), "Connection: close")
        hung_up = select.poll()
        hung_up.register(peer.sock, select.POLLRDHUP)
        hung_up.poll(1000 * DEADLINE)

    return script


def too_many_requests(peer, sent):
    """429, with the time after which the client may ask again."""
    peer.body(sent)
    peer.answer("429 Too Many Requests", error("slow down"), "Retry-After-Ms: 300", "x-should-retry: true")
    return True


def error(message):
    return encoded({"error": {"message": message, "type": "error", "param": None, "code": "of_upstream"}})


def to_handshakes(script):
    """This script for WebSocket handshakes; other requests are answered."""
    return lambda peer, sent: (script if sent.transport == "WebSocket" else healthy)(peer, sent)


def no_websocket(peer, sent):
    """426."""
    peer.answer("426 Upgrade Required", b"", "Upgrade: websocket", "Connection: Upgrade")
    return True


def hangs_up(peer, sent):
    """Switches to WebSocket and breaks the connection at the first message."""

    def hang_up(message):
        peer.reset()
        raise Gone

    return converse(peer, sent, hang_up)


def echoes(peer, sent):
    """Every message of a WebSocket comes back."""
    return converse(peer, sent, lambda message: [message])


def converse(peer, sent, answers=lambda message: map(encoded, responses_messages())):
    """A WebSocket: every message gets its `answers`, by default the events of a response."""
    session = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()], max_size=None)

    def flush():
        for data in session.data_to_send():
            peer.send(data) if data else peer.close()

    session.receive_data(sent.head + peer.received)
    (handshake,) = session.events_received()
    session.send_response(session.accept(handshake))
    flush()
    message, opcode = b"", Opcode.TEXT
    while True:
        session.receive_data(peer.receive())
        for frame in session.events_received():
            if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                continue
            message += bytes(frame.data)
            opcode = frame.opcode if frame.opcode != Opcode.CONT else opcode
            if not frame.fin:
                continue
            sent.body += message
            for answer in answers(message):
                session.send_binary(answer) if opcode == Opcode.BINARY else session.send_text(answer)
            message = b""
        flush()


def encoded(event):
    return json.dumps(event).encode()


class Origin:
    """Listens on a port of its own. Request n gets script n, and the last one all that follow; a
    request for the list of models is no part of the count."""

    def __init__(self, *scripts, certificate=None):
        self.scripts = scripts
        self.certificate = certificate
        self.ledger = []
        self.connected = 0
        self.peers = set()
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        port = self.listener.getsockname()[1]
        self.url = f"https://localhost:{port}" if certificate else f"http://127.0.0.1:{port}"
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        with self.lock:
            peers = list(self.peers)
        for peer in peers:
            peer.close()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=[sock], daemon=True).start()

    def serve(self, sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self.certificate:
                sock = self.certificate.context.wrap_socket(sock, server_side=True)
        except OSError:
            sock.close()
            return
        peer = Peer(sock)
        with self.lock:
            self.peers.add(peer)
            self.connected += 1
            number = self.connected
        with contextlib.suppress(Gone):
            while self.exchange(peer, number):
                pass
        peer.close()
        with self.lock:
            self.peers.discard(peer)

    def exchange(self, peer, number):
        sent = peer.head(number)
        if sent.path.split("?")[0].endswith("/models"):
            return healthy(peer, sent)
        with self.lock:
            script = self.scripts[min(len(self.ledger), len(self.scripts) - 1)]
            self.ledger.append(sent)
        try:
            return script(peer, sent)
        except Gone:
            sent.closed.set()
            raise

    @property
    def sends(self):
        return len(self.ledger)

    def by_transport(self):
        """How often it was sent each way, as in {"WebSocket": 2, "POST": 1}."""
        counts = {}
        for sent in self.ledger:
            counts[sent.transport] = counts.get(sent.transport, 0) + 1
        return counts

    def wait(self, what, condition):
        """Waits until `condition` holds."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, f"in vain: {what}"
            time.sleep(0.005)


class Certificate:
    """A throwaway certificate for localhost, made by the openssl command."""

    def __init__(self, folder):
        self.path, key = pathlib.Path(folder, "cert.pem"), pathlib.Path(folder, "key.pem")
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        command += " -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        # An authority's certificate may not stand for a server.
        command += " -addext basicConstraints=critical,CA:FALSE"
        paths = ["-keyout", str(key), "-out", str(self.path)]
        subprocess.run(command.split() + paths, check=True, capture_output=True)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(self.path, key)
