"""How fast the program starts, what it holds while nothing happens, how large the dashboard is."""

import gzip
import time
from pathlib import Path

from machine import ROOT, skip

from .system import SERVICES, System, memory
from .table import Row, spread

MIB = "{:.1f}"
START = {"must": 1.0, "aim": 0.3, "gated": False}


def start(rounds: int) -> list[Row]:
    fresh, again = [], []
    for _ in range(max(rounds, 5)):
        with System() as system:
            fresh.append(system.start())
            system.stop()
            again.append(system.start())
    rows = []
    for name, seconds in [("start to ready, new directory", fresh), ("start to ready, existing directory", again)]:
        row = Row(name, spread([s * 1000 for s in seconds], "{:.0f}") + " ms", "1 s", seconds, **START)
        row.detail = {"seconds": seconds}
        rows.append(row)
    return rows


def idle(quiet: float = 10) -> list[Row]:
    rows = []
    with System() as system:
        system.start()
        time.sleep(quiet)
        rows.append(held("memory of up, idle", memory(system.pid), "rss", 120, 60))
    with System("--split") as system:
        system.start()
        time.sleep(quiet)
        for service in SERVICES:
            rows.append(held(f"memory of {service} alone, idle", memory(system.service_pid(service)), "share", 20, 10))
        rows.append(held("memory of the supervisor, idle", memory(system.pid), "share", 20, 10))
    return rows


def held(name: str, found: dict[str, float], what: str, must: float, aim: float) -> Row:
    """`what` the limits hold for. Processes of the same program share its pages, so it is the share that one more costs."""
    ours = f"{found['share']:.1f} MiB, {found['anon']:.1f} its own, {found['rss']:.1f} resident"
    return Row(name, ours, f"{must} MiB", [found[what]], must, aim, detail=found)


def dashboard() -> list[Row]:
    folder = ROOT / "services/edge/dashboard/dist"
    files = [file for file in folder.rglob("*") if file.is_file()]
    if not files:
        skip("size of the dashboard", "it is not built; make dashboard")
        return []
    sizes = {str(f.relative_to(folder)): len(gzip.compress(f.read_bytes(), 9)) for f in sorted(files)}
    total = sum(sizes.values()) / 1024
    return [Row("dashboard, gzip", f"{total:.1f} KiB", "150 KiB", [total], 150, 100, detail=sizes)]
