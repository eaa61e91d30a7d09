"""What readings' way to the disk takes while somebody exports, as fast as they come, what is there of ten million others."""

import http.client
import os
import threading
import time
from pathlib import Path

from .overload import CLOSED, Load, by_second, sides
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
        alone, together, rows = [], [], []
        for _ in range(rounds):
            alone.append(p99(system, theirs, seconds, PART * peak))
            with Export(system) as export:
                together.append(p99(system, theirs, seconds, PART * peak))
            rows.append(export.rows)
    ratios = [t / a for t, a in zip(together, alone)]
    ours, peer = (spread([us / 1000 for us in found], "{:.1f}") + " ms" for found in (together, alone))
    detail = {"peak": peak, "exported": rows, "alone": alone, "together": together}
    measure = f"p99 of calls at {PART:.0%} of the most, beside an export of {sum(rows) / 1e6:.1f} M rows"
    return [Row(measure, ours, f"{peer} without", ratios, must=1.25, detail=detail)]


def p99(system: System, processors: set[int], seconds: float, rate: float) -> float:
    """Of calls at a rate, but for the first second, in which the load connects."""
    history = system.home / f"history-{time.monotonic_ns()}"
    Load(system, processors, seconds, CLOSED, "--rate", str(rate), "--history", str(history)).finish()
    took = sorted(us for second, some in by_second(history).items() if second > 0 for us in some)
    return took[len(took) * 99 // 100]


class Export(threading.Thread):
    """Reads the history of one sensor after the other as CSV, all over again until it is told to stop."""

    def __init__(self, system: System) -> None:
        super().__init__(daemon=True)
        self.port, self.token = system.port, system.token()
        self.rows, self.going = 0, True
        self.failure: Exception | None = None

    def run(self) -> None:
        os.sched_setaffinity(0, sides()[1])  # of this thread
        try:
            self.export()
        except Exception as failure:  # told where the thread is waited for
            self.failure = failure

    def export(self) -> None:
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
        if self.failure:
            raise self.failure
        if not self.rows:
            raise RuntimeError("nothing was exported")
