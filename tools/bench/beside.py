"""What readings' way to the disk takes while somebody exports ten million others."""

import http.client
import os
import threading
import time
from pathlib import Path

from .overload import CLOSED, Load, sides
from .system import System
from .table import Row, spread

# The part of the most that is taken at which readings come.
PART = 0.7
SENSORS = 200


def beside(rounds: int, seconds: float) -> list[Row]:
    with System("--no-host-sensors") as system:
        system.start()
        ours, theirs = sides()
        for task in Path(f"/proc/{system.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), ours)
        system.load("fill", "telemetry", 0, int(time.time()))
        peak = Load(system, theirs, seconds, CLOSED).finish()["per_second"]
        rate = ("--rate", str(PART * peak))
        alone, together, rows = [], [], []
        for _ in range(rounds):
            alone.append(Load(system, theirs, seconds, CLOSED, *rate).finish()["p99_us"])
            with Export(system) as export:
                together.append(Load(system, theirs, seconds, CLOSED, *rate).finish()["p99_us"])
            rows.append(export.rows)
    ratios = [t / a for t, a in zip(together, alone)]
    ours, peer = (spread([us / 1000 for us in found], "{:.1f}") + " ms" for found in (together, alone))
    detail = {"peak": peak, "exported": rows, "alone": alone, "together": together}
    measure = f"p99 of calls at {PART:.0%} of the most, beside an export of {sum(rows) / 1e6:.1f} M rows"
    return [Row(measure, ours, f"{peer} without", ratios, must=1.25, detail=detail)]


class Export(threading.Thread):
    """Reads the history of one sensor after the other as CSV, all over again until it is told to stop."""

    def __init__(self, system: System) -> None:
        super().__init__(daemon=True)
        self.port, self.token = system.port, system.token()
        self.rows, self.going = 0, True

    def run(self) -> None:
        headers = {"accept": "text/csv", "authorization": f"Bearer {self.token}"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        number = 0
        while self.going:
            connection.request("GET", f"/v1/sensors/bench.s{number % SENSORS}/readings", headers=headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"export: {answer.status} {answer.read()[:300]!r}")
            while self.going and (data := answer.read(1 << 16)):
                self.rows += data.count(b"\n")
            number += 1
        connection.close()

    def __enter__(self) -> "Export":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.going = False
        self.join()
