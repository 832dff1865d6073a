"""What the README says, so that it is run as it stands there."""

import re

from proxy import ROOT

TEXT = (ROOT / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8788"


def snippet(heading, language, proxy, holding=""):
    """The block of `language` below `heading` that contains `holding`, pointed at `proxy`."""
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", TEXT, re.M | re.S)[1]
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", section, re.M | re.S)
    (block,) = [block for block in blocks if holding in block]
    return block.replace(ADDRESS, proxy.url)


def settings(holding):
    """The variables of the block of settings that contains `holding`, save the upstream's URL."""
    blocks = re.findall(r"^```sh\n# \.env[^\n]*\n(.*?)^```$", TEXT, re.M | re.S)
    (block,) = [block for block in blocks if holding in block]
    settings = dict(line.split("=", 1) for line in block.splitlines())
    del settings["UPSTREAM_BASE_URL"]
    return settings


def cost(client):
    """(requests, sends) that an upstream which never answers costs with this client."""
    row = re.search(rf"^\| {re.escape(client)} \| ([^|]*) \| ([^|]*) \|$", TEXT, re.M)
    return tuple(int(cell.split()[-1]) for cell in row.groups())
