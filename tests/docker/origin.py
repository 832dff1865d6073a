"""An upstream with faults, over HTTP on port 9000 and HTTPS on 9443, and a name server that says it is
here whatever it is asked for: `origin.py ADDRESS CERTIFICATE_AND_KEY`.

- /hang/...: not answered at the first time, and later with the number of times.
- /large: 64 MiB.
- /slow: the first half at once, the second when somebody has asked for /go on."""

import collections
import http.server
import socket
import ssl
import sys
import threading

ADDRESS, PEM = sys.argv[1:]
LARGE = bytes(range(256)) * (1 << 18)
asked = collections.Counter()
go = threading.Event()


class Origin(http.server.BaseHTTPRequestHandler):
    """One connection of the proxy."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked[self.path] += 1
        if self.path.startswith("/hang/"):
            if asked[self.path] == 1:
                self.rfile.read()  # until the proxy gives up and closes
                return
            self.answer(b"asked %d times" % asked[self.path])
        elif self.path == "/slow":
            self.answer(b"first half, second half", pause_after=10)
        elif self.path == "/go":
            go.set()
            self.answer(b"")
        else:
            self.answer(LARGE)

    do_POST = do_GET

    def answer(self, body, pause_after=None):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if pause_after:
            self.wfile.write(body[:pause_after])
            body = body[pause_after:]
            go.wait(60)
        self.wfile.write(body)

    def log_message(self, *arguments):
        """The proxy's own lines say what was asked."""


def name_server():
    """Answers A with our address, and anything else with nothing (RFC 1035, section 4)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((ADDRESS, 53))
        while True:
            query, peer = sock.recvfrom(512)
            end = query.index(b"\0", 12) + 5
            question = query[12:end]
            known = question[-4:] == b"\0\1\0\1"
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(ADDRESS) if known else b""
            header = query[:2] + b"\x81\x80\0\1" + (b"\0\1" if known else b"\0\0") + b"\0\0\0\0"
            sock.sendto(header + question + answer, peer)


plain = http.server.ThreadingHTTPServer((ADDRESS, 9000), Origin)
secure = http.server.ThreadingHTTPServer((ADDRESS, 9443), Origin)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(PEM)
secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
threading.Thread(target=name_server, daemon=True).start()
threading.Thread(target=secure.serve_forever, daemon=True).start()
plain.serve_forever()
