"""A sparse mirror of the crates index, from what cargo on this machine has downloaded: `mirror.py PORT
CARGO_HOME`. It is reached as an HTTP proxy under any name, so that a build which finds it has used both."""

import http.server
import json
import pathlib
import sys
from urllib.parse import urlsplit

PORT, REGISTRY = int(sys.argv[1]), pathlib.Path(sys.argv[2], "registry")


def index_lines(cached):
    """Cargo keeps what a registry says of a crate as version, NUL, JSON, NUL; the registry itself has a
    JSON in each line."""
    return b"\n".join(part for part in cached.split(b"\0") if part.startswith(b"{"))


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves /index/ and /crates/."""

    def do_GET(self):
        url = urlsplit(self.path)
        kind, _, rest = url.path.lstrip("/").partition("/")
        body = None
        if url.scheme and rest == "config.json":
            body = json.dumps({"dl": f"http://{url.netloc}/crates/{{crate}}-{{version}}.crate"}).encode()
        elif url.scheme:
            pattern = f"index/*/.cache/{rest}" if kind == "index" else f"cache/*/{rest}"
            for path in REGISTRY.glob(pattern):
                body = index_lines(path.read_bytes()) if kind == "index" else path.read_bytes()
        if body is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        """What is missing is said by cargo."""


http.server.ThreadingHTTPServer(("", PORT), Mirror).serve_forever()
