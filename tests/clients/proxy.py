"""The proxy under test, as a child process."""

import collections
import os
import pathlib
import re
import subprocess
import threading
import time

from origin import DEADLINE

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("PROXY_BINARY", ROOT / "target/release/codex-reset-proxy")


class Proxy:
    """One proxy in front of one upstream; `settings` are its environment."""

    def __init__(self, origin, **settings):
        environment = {"UPSTREAM_BASE_URL": origin.url, "LISTEN_PORT": "0", "RETRY_BACKOFF_SECONDS": "0.02"}
        # A driver that was chosen for the whole run holds here as well.
        environment |= {name: os.environ[name] for name in ["MONOIO_FORCE_LEGACY_DRIVER"] if name in os.environ}
        if origin.certificate:
            environment["UPSTREAM_CA_FILE"] = str(origin.certificate.path)
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen([BINARY], env=environment | settings, **output)
        self.lines = []
        self.grown = threading.Condition()
        threading.Thread(target=self.read, daemon=True).start()
        started = self.logs("listening on ")
        self.port = int(re.search(r"listening on [^ ]*:(\d+),", started)[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def read(self):
        for line in self.process.stdout:
            with self.grown:
                self.lines.append(line)
                self.grown.notify_all()

    def logs(self, *parts, times=1):
        """Waits for the `times`th line that contains all of `parts`."""
        deadline = time.monotonic() + DEADLINE
        with self.grown:
            while True:
                found = [line for line in self.lines if all(part in line for part in parts)]
                if len(found) >= times:
                    return found[times - 1] if times else None
                left = deadline - time.monotonic()
                assert left > 0, f"not logged: {parts}\n{''.join(self.lines)}"
                self.grown.wait(left)

    def ended(self, **expected):
        """Waits until as many exchanges as expected have ended. They have ended so (`answered=2`), and
        the log makes nothing of it."""
        self.logs("  total ", times=sum(expected.values()))
        outcomes = re.findall(r"^\S+ INFO  (\w+) .*  total ", "".join(self.lines), re.MULTILINE)
        assert collections.Counter(outcomes) == expected, outcomes
