"""Twenty clients at once of a served catalog: errors, compilations, latency and memory.

    python -m benchmarks.serving

The synthetic set's shop photos, test split, are indexed without training and served by the command;
its customers' photos are sent, searched by whole, in a box, with a filter and for 100 items, and
found photos are searched by again. Latency is a client's, in ms; `memory_mb` the server's when it
is ready, after half of the requests and at the end; `load` the machine's, which says what else ran;
`calibration` how far the probabilities are off, in two halves by item.
Writes benchmarks/results/serving_cpu.json.
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.results_file import ROOT, ResultsFile, make_parser, markdown_table
from input_pipeline import list_photos

_JPEG = {"Content-Type": "image/jpeg"}
_PERCENTILES = (50, 90, 99)
_CALIBRATION = ("queries", "ece_first", "ece_shown", "auroc", "fpr")


def main() -> None:
    """Measures, writes and prints a row."""
    parser = make_parser(__doc__)
    parser.add_argument("--dir", default="data/synthetic/small", help="a prepared data set")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=20)
    options = parser.parse_args()
    results = ResultsFile("serving_cpu", "python -m benchmarks.serving", ("requests", "clients"))
    photos = list_photos(options.dir, ("test",), customers=True)
    bodies = [photos.read(row) for row in range(min(200, len(photos.table)))]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "grnet_jax.search"]
        index = [*command, "index", folder, f"--from={options.dir}", "--split=test"]
        subprocess.run(index, check=True, cwd=ROOT)
        told = [*command, "calibrate", folder, f"--from={options.dir}", "--split=test"]
        subprocess.run(told, check=True, cwd=ROOT)
        calibration = json.loads((pathlib.Path(folder) / "calibration.json").read_text())
        with serving([*command, "serve", folder, "--rate=0"]) as (process, port):
            row = measure(port, process.pid, bodies, options.requests, options.clients)
    row["calibration"] = {name: round(calibration[name], 4) for name in _CALIBRATION}
    results.add({"requests": options.requests, "clients": options.clients, **row})
    results.report(format_rows(results.rows))


@contextlib.contextmanager
def serving(command: list[str]) -> Iterator[tuple[subprocess.Popen, int]]:
    """Runs the server at a free port; gives it once it is ready."""
    process = subprocess.Popen(
        [*command, "--port=0"], cwd=ROOT, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        port = 0
        for line in process.stderr or ():
            if found := re.search(r"running on http://[\w.]+:(\d+)", line):
                port = int(found[1])
                break
            print(line, end="", file=sys.stderr)
        if not port:
            raise SystemExit("the server ended before it ran; see above")
        threading.Thread(target=lambda: [*(process.stderr or ())], daemon=True).start()
        while _ask(port, "GET", "/readyz")[0] != 200:
            time.sleep(0.5)
        yield process, port
    finally:
        process.terminate()
        process.wait()


def _ask(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _kinds(port: int) -> dict[str, Callable[[bytes, str], tuple[int, bytes]]]:
    """Kinds of requests, of (photo, token of one that was sent)."""

    def search(**asked: Any) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        return _ask(port, "POST", "/v1/search", json.dumps(asked), headers)

    about = json.loads(_ask(port, "GET", "/v1/catalog")[1])
    number = about["samples"][0]["number"]
    fields = {facet["name"]: [facet["values"][0]["value"]] for facet in about["facets"][:1]}
    return {
        "send a photo": lambda body, _: _ask(port, "POST", "/v1/photos", body, _JPEG),
        "search": lambda _, token: search(photo=token),
        "in a box": lambda _, token: search(photo=token, box=[10, 10, 60, 90]),
        "with a filter": lambda _, token: search(photo=token, filters=fields),
        "100 items": lambda _, token: search(photo=token, limit=100),
        "more like one": lambda *_: search(photo_number=number),
        "send and search": lambda body, _: _ask(port, "POST", "/v1/photos/search", body, _JPEG),
    }


def measure(port: int, pid: int, bodies: list[bytes], requests: int, clients: int) -> dict:
    """Returns a row, but its keys."""
    kinds = _kinds(port)
    waits, failed, lock = defaultdict(list), [], threading.Lock()
    memory, load = [_memory(pid)], [os.getloadavg()[0]]

    def one(client: int) -> None:
        token = ""
        for turn in range(client, requests, clients):
            place = (turn // clients) % len(kinds)
            name, ask = [*kinds.items()][place]
            begun = time.perf_counter()
            status, content = ask(bodies[turn % len(bodies)], token)
            wait = time.perf_counter() - begun
            if name == "send a photo" and status == 201:
                token = json.loads(content)["photo"]
            with lock:
                waits[name].append(1000 * wait)
                if status not in (200, 201):
                    failed.append(f"{name}: {status} {content[:200].decode()}")
                if sum(map(len, waits.values())) == requests // 2:
                    memory.append(_memory(pid))

    spent, begun = _cpu_seconds(pid), time.perf_counter()
    threads = [threading.Thread(target=one, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, spent = time.perf_counter() - begun, _cpu_seconds(pid) - spent
    text = _ask(port, "GET", "/metrics")[1].decode()
    (compilations,) = re.findall(r"^grnet_search_compilations (\S+)$", text, re.MULTILINE)
    return {
        "errors": len(failed),
        "first_errors": failed[:3],
        "compilations": int(float(compilations)),
        "per_second": round(requests / seconds, 1),
        "cpu_ms_a_request": round(1000 * spent / requests, 1),
        "memory_mb": [*memory, _memory(pid)],
        "load": [round(one, 1) for one in (*load, os.getloadavg()[0])],
        "latency_ms": {
            name: {f"p{p}": round(float(np.percentile(waits[name], p))) for p in _PERCENTILES}
            for name in waits
        },
    }


def _memory(pid: int) -> int:
    """Resident, in MB."""
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())
    return round(int(kilobytes) / 1024)


def _cpu_seconds(pid: int) -> float:
    parts = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, parts[11:13])) / os.sysconf("SC_CLK_TCK")


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Returns a table of the latencies of each row."""
    lines = [
        [name, *(wait[f"p{p}"] for p in _PERCENTILES)]
        for row in rows
        for name, wait in row["latency_ms"].items()
    ]
    said = [
        f"{row['requests']:,} requests of {row['clients']} clients: {row['errors']} errors, "
        f"{row['compilations']} compilations, {row['per_second']} a second, "
        f"{row['cpu_ms_a_request']} ms CPU each; memory {row['memory_mb'][0]} to "
        f"{row['memory_mb'][-1]} MB, load {row['load'][-1]}"
        for row in rows
    ]
    header = ("latency, ms", *(f"p{p}" for p in _PERCENTILES))
    return "\n".join([*said, "", markdown_table(header, lines)])


if __name__ == "__main__":
    main()
