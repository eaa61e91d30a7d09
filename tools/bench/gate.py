"""Counts that do not vary from one machine to another: commits and allocations for what is stored. `make bench-gate` holds them."""

import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator

from machine import ROOT, skip

from .system import System
from .table import Row

ALLOCATIONS = ROOT / "target/release/examples/allocations"
# Acknowledgements of a run.
COUNT = 10_000
# What is stored, as the load program names it; what the table says; commits for 1,000 acknowledgements at most.
LOADS = [
    ("count-unary", "single readings, 32 at once", 125),
    ("count-stream", "batches of 1,000, 64 in flight", 64),
]


def syncs() -> list[Row]:
    """Commits for 1,000 acknowledgements, and how often each syncs the disk."""
    rows = []
    with System("--split", "--no-host-sensors") as system:
        system.start()
        system.load("count-unary", "telemetry", 0, 1000)
        for mode, name, most in LOADS:
            found = []
            for hours in (3, 2, 1):
                before = commits(system)
                system.load(mode, "telemetry", hours, COUNT)
                found.append((commits(system) - before) * 1000 / COUNT)
            ours = " / ".join(f"{each:.0f}" for each in sorted(found))
            rows.append(Row(f"commits for 1,000 {name}", ours, f"{most}", found, most, detail={"rounds": found}))
        if shutil.which("strace"):
            rows.append(synced(system))
        else:
            skip("syncs of a commit", "there is no strace")
    return rows


def commits(system: System) -> float:
    return system.metric("telemetry", "sensormesh_telemetry_commit_duration_seconds_count")


def synced(system: System) -> Row:
    """Calls of fsync and fdatasync by telemetry while it commits: one a commit, and some for blocks and checkpoints."""
    before = commits(system)
    with traced(system.service_pid("telemetry")) as calls:
        system.load("count-unary", "telemetry", 0, COUNT)
    made = commits(system) - before
    each = calls[0] / made
    detail = {"syncs": calls[0], "commits": made}
    return Row("syncs of a commit", f"{each:.2f}", "1.2", [each], 1.2, detail=detail)


@contextlib.contextmanager
def traced(pid: int) -> Iterator[list[int]]:
    """Counts a process's syncs in the `with` block; the number is there after it."""
    calls: list[int] = []
    with tempfile.NamedTemporaryFile("r") as out:
        command = ["strace", "-f", "-q", "-e", "trace=fsync,fdatasync", "-o", out.name, "-p", str(pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(1)
        try:
            yield calls
        finally:
            tracer.terminate()
            tracer.wait(timeout=30)
        # a call that another thread interrupts stands on two lines
        calls.append(len(re.findall(r"^\d+ +f(?:data)?sync\(", out.read(), re.MULTILINE)))


def allocations() -> list[Row]:
    """How often memory is asked for while a batch becomes durable."""
    with tempfile.TemporaryDirectory(prefix="sensormesh-bench-") as home:
        result = subprocess.run([ALLOCATIONS, home], check=True, capture_output=True, text=True)
    found = {(each["sensors"], each["readings"]): each["allocations"] for each in json.loads(result.stdout)}
    few, many, batch, single = (found[shape] for shape in ((20, 5), (20, 50), (200, 5), (1, 1)))
    return [
        Row("allocations of a batch of 1,000 readings of 200 sensors", f"{batch:.0f}", "600", [batch], 600),
        Row("the same of 20 sensors, beside 100 readings of them", f"{many:.0f}", f"{few:.0f}", [many / few], 1.1),
        Row("allocations of a single reading", f"{single:.0f}", "100", [single], 100),
    ]
