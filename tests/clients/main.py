"""Runs the scenarios and says what came of each: `main.py [part of a client's or scenario's name]`."""

import importlib
import os
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

from scenario import SCENARIOS

MODULES = {
    "Codex": "codex",
    "Claude Code": "claude_code",
    "openai (Python)": "openai_sdk",
    "openai (Node)": "node_sdk",
    "anthropic (Python)": "anthropic_sdk",
    "websockets": "websocket",
    "curl": "curl",
}


def attempt(scenario):
    """Runs it; (the scenario, whether it passed)."""
    begun = time.monotonic()
    try:
        note, failure = scenario.run() or "", None
    except Exception:
        note, failure = "", traceback.format_exc()
    taken = time.monotonic() - begun
    verdict = "FAILED" if failure else "ok"
    line = f"{verdict:6}  {scenario.client:18}  {scenario.name:30}  {taken:5.1f} s  {note}".rstrip()
    # In one piece: others write as well.
    sys.stdout.write(f"{line}\n{failure or ''}")
    sys.stdout.flush()
    return scenario, failure is None


def summary(results, missing):
    """The table of scenarios and clients."""
    passed = {(scenario.name, scenario.client): ok for scenario, ok in results}
    clients = [client for client in MODULES if client in missing or any(client == key[1] for key in passed)]
    print("\n" + "  ".join([f"{'scenario':32}", *clients]))
    for name in sorted({name for name, _ in passed}):
        cells = [f"{name:32}"]
        for client in clients:
            cell = {True: "ok", False: "FAILED", None: "-"}[passed.get((name, client))]
            cells.append(f"{'SKIPPED' if client in missing else cell:{len(client)}}")
        print("  ".join(cells).rstrip())


def main():
    missing = os.environ.get("CLIENTS_MISSING", "").split(",")
    for client, module in MODULES.items():
        if client not in missing:
            importlib.import_module(module)
    wanted = " ".join(sys.argv[1:]).lower()
    chosen = [one for one in SCENARIOS if wanted in f"{one.client} {one.name}".lower()]
    begun = time.monotonic()
    # They wait most of the time.
    with ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1)) as pool:
        results = list(pool.map(attempt, [one for one in chosen if not one.alone]))
    results += [attempt(one) for one in chosen if one.alone]
    summary(results, missing)
    passed = sum(passed for _, passed in results)
    print(f"{passed} of {len(results)} scenarios passed in {time.monotonic() - begun:.0f} s")
    sys.exit(0 if results and passed == len(results) else 1)


main()
