"""The service under fifty orders at once, the embedded model behind it: who is served, and how soon the others hear no.

python benchmarks/service.py
"""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from compare import Row, at_least, at_most, table

ORDERS, QUEUE = 50, 8
ORDER = {"event": "dog bark", "azimuth_deg": 270, "seed": 1}


def measure() -> list[Row]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "dualspec", "serve", "--port", str(port), "--queue", str(QUEUE)]
    service = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return _rows(f"http://127.0.0.1:{port}", service.pid)
    finally:
        service.terminate()
        service.wait()


def _rows(address: str, process: int) -> list[Row]:
    _wait_for(f"{address}/healthz")
    before, answers, health, over = _resident_mb(process), [], [], threading.Event()

    def order() -> None:
        request = urllib.request.Request(
            f"{address}/api/jobs", json.dumps(ORDER).encode(), {"content-type": "application/json"}
        )
        start = time.perf_counter()
        try:
            with urllib.request.urlopen(request) as answer:
                answers.append((answer.status, time.perf_counter() - start))
        except urllib.error.HTTPError as refusal:
            honest = refusal.code == 503 and "retry-after" in refusal.headers
            answers.append((503 if honest else 0, time.perf_counter() - start))

    def watch() -> None:
        while not over.wait(0.01):
            start = time.perf_counter()
            urllib.request.urlopen(f"{address}/healthz").read()
            health.append(time.perf_counter() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    threads = [threading.Thread(target=order) for _ in range(ORDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(4.0)  # the jobs run meanwhile
    over.set()
    watcher.join()
    served, refused = (sum(status == code for status, _ in answers) for code in (202, 503))
    slowest = max(seconds for status, seconds in answers if status == 503)
    counts = f"{ORDERS} orders at once, queue of {QUEUE}, the embedded model, once"
    return [
        at_least("orders taken", QUEUE + 1, served, counts),
        at_least("orders refused with 503 and Retry-After", ORDERS - QUEUE - 1, refused, counts),
        at_most("slowest refusal, wall seconds", 0.5, slowest, counts),
        at_most(
            "slowest answer of /healthz meanwhile, wall seconds", 0.1, max(health), f"{len(health)} asked; {counts}"
        ),
        at_most("growth of the resident memory, MB", 64, _resident_mb(process) - before, counts),
    ]


def _wait_for(url: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def _resident_mb(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    print(table(measure()))
