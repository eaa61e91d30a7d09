"""Three times the load that the system can take, for a while: what it still takes, what it holds, whether it says how it
does, and how soon it is as fast as before."""

import http.client
import json
import os
import statistics
import subprocess
import threading
import time
from pathlib import Path

from .system import PROGRAM, System, cpu_seconds, memory
from .table import Row

# Rows of one call: what a device sends that keeps its readings for a while.
BATCH = 100
# Senders that wait for their answers find the most that is taken; so many more offer too much.
CLOSED = 64
OPEN = 1000
TIMES = 3
# A second is as fast as before when half of its calls take no longer than so many times what they took before.
NORMAL = 2
CALM = 15.0


def overload(seconds: float) -> list[Row]:
    """`seconds` is how long too much is offered."""
    with System("--no-host-sensors") as system:
        system.start()
        ours, theirs = sides()
        for task in Path(f"/proc/{system.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), ours)
        # what is taken at most changes while blocks are sealed and merged: it is measured on both sides
        part = max(10.0, seconds / 5)
        peaks = [Load(system, theirs, part, CLOSED).finish()["per_second"]]
        before = median_of_seconds(calm(system, theirs, peaks[0]))
        # who sends too much is known already: registering a thousand sensors is not what is measured
        senders = system.home / "senders"
        Load(system, theirs, part, OPEN, "--rate", str(peaks[0] / 2), "--history", str(senders)).finish()
        with Watch(system) as watch:
            more = ["--give-up", "--rate", str(TIMES * peaks[0]), "--history", str(senders)]
            too_much = Load(system, theirs, seconds, OPEN, *more)
            busy = [cpu_seconds(pid) for pid in (system.pid, too_much.process.pid)]
            time.sleep(seconds)
            end = time.time()
            busy = [(cpu_seconds(pid) - b) / seconds for pid, b in zip((system.pid, too_much.process.pid), busy)]
            after = median_of_seconds(calm(system, theirs, peaks[0]), end)
            found = too_much.finish()
        peaks.append(Load(system, theirs, part, CLOSED).finish()["per_second"])
    peak, normal = statistics.mean(peaks), max(before.values())
    offered = (found["batches"] + found["refused"]) * BATCH / found["seconds"]
    slow = [second for second, median in after.items() if second >= 0 and median > NORMAL * normal]
    recovery = max(slow, default=-1) + 1
    detail = {"peaks": peaks, "sent": offered, "found": found, "busy": busy, "normal_us": normal, "after_us": after}
    without = found["refused_without_hint"]
    hinted = Row("refused without when to try again", f"{without}", f"of {found['refused']}", [float(without)], must=0)
    return [
        Row(
            f"taken while {TIMES} times as much is due",
            f"{found['per_second'] / 1e3:.0f} k readings/s",
            f"{peak / 1e3:.0f} k readings/s at its peak",
            [found["per_second"] / peak],
            must=0.8,
            aim=0.95,
            sense="least",
            detail=detail,
        ),
        hinted,
        Row("memory meanwhile", f"{watch.most:.0f} MiB", "256 MiB", [watch.most], must=256, aim=160),
        Row("longest /health meanwhile", f"{watch.slowest * 1000:.0f} ms", "1 s", [watch.slowest], must=1, aim=0.2),
        Row("as fast as before again", f"{recovery} s after", "10 s", [float(recovery)], must=10, aim=2),
    ]


def sides() -> tuple[set[int], set[int]]:
    """Processors for the system and for the load: of its own each, where there are two."""
    all_of_them = sorted(os.sched_getaffinity(0))
    half = len(all_of_them) // 2
    return (set(all_of_them[:half]), set(all_of_them[half:])) if half else (set(all_of_them), set(all_of_them))


class Load:
    """`sensormesh load` in small calls, on processors of its own."""

    def __init__(self, system: System, processors: set[int], seconds: float, lanes: int, *more: str) -> None:
        command = [PROGRAM, "load", "--json", "--calls", "--no-watch", "--no-check"]
        command += ["--duration", f"{seconds * 1000:.0f}ms"]
        command += ["--lanes", str(lanes), "--sensors", str(lanes), "--batch", str(BATCH), *more]
        command += ["--data-dir", system.data, "--port-base", str(system.port)]
        self.process = subprocess.Popen(
            command,
            env=system.env,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, processors),
        )

    def finish(self) -> dict:
        output, _ = self.process.communicate(timeout=600)
        if self.process.returncode:
            raise RuntimeError(f"load ended with {self.process.returncode}")
        return json.loads(output)


def calm(system: System, processors: set[int], peak: float) -> Path:
    """Half of what the system can take; its history."""
    history = system.home / f"history-{time.monotonic_ns()}"
    Load(system, processors, CALM, CLOSED, "--rate", str(peak / 2), "--history", str(history)).finish()
    return history


def median_of_seconds(history: Path, start: float | None = None) -> dict[int, float]:
    """Of each second since `start`, by when its calls were sent, how long half of them took, in microseconds."""
    return {second: statistics.median(took) for second, took in by_second(history, start).items()}


def by_second(history: Path, start: float | None = None) -> dict[int, list[float]]:
    """Of each second since `start` (of the load, if absent), by when they were sent, how long calls took, in microseconds."""
    began, sent, took = 0.0, {}, {}
    for line in history.read_text().splitlines():
        [(kind, value)] = json.loads(line).items()
        if kind == "began":
            began = value / 1e6
        elif kind == "invoke":
            sent.setdefault((value["lane"], value["batch"]), value["at"])
        elif kind == "ok":
            at = sent.pop((value["lane"], value["batch"]))
            second = int(began + at / 1e6 - (start or began))
            took.setdefault(second, []).append(value["at"] - at)
    return dict(sorted(took.items()))


class Watch:
    """Asks how the system does, and looks at its memory, four times a second."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.slowest, self.most = 0.0, 0.0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self) -> "Watch":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.done.set()
        self.thread.join()

    def run(self) -> None:
        while not self.done.wait(0.25):
            begin = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", self.system.port, timeout=10)
            try:
                connection.request("GET", "/health")
                status = connection.getresponse().status
            except OSError:
                status = 0
            connection.close()
            took = time.perf_counter() - begin
            self.slowest = max(self.slowest, took if status == 200 else 10.0)
            self.most = max(self.most, memory(self.system.pid)["rss"])
