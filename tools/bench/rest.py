"""Single readings over REST, each on disk before its answer, beside the ordinary way to build this: a gateway and a service in
FastAPI, and SQLite."""

import contextlib
import os
import subprocess
import time
from pathlib import Path

from machine import VENV, pip

from . import peers
from .system import System, free_port, memory
from .table import Row, spread

HERE = Path(__file__).parent
PACKAGES = ("fastapi==0.*", "uvicorn[standard]==0.*", "httpx==0.*")
CONCURRENCY = 32


def rest(rounds: int, seconds: float) -> list[Row]:
    if not peers.wrk():
        return []
    ours, theirs, held = [], [], {}
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(System("--split", "--no-host-sensors"))
        system.start()
        pair = stack.enter_context(Pair(system.home)) if installed() else None
        for number in range(rounds + 1):
            mine = peers.ask(system.port, system.token(), "post", CONCURRENCY, seconds)
            other = peers.ask(pair.port, "none", "post", CONCURRENCY, seconds) if pair else {}
            # the first warms both up
            if number:
                ours.append(mine)
                theirs.append(other)
        held = {service: memory(system.service_pid(service)) for service in ("edge", "telemetry")}
        if pair:
            held |= {process.args[3]: memory(process.pid) for process in pair.processes}
    theirs = [other for other in theirs if other]

    def row(measure: str, of, unit: str, **limits) -> Row:
        a, b = [of(found) for found in ours], [of(found) for found in theirs]
        ratios = [x / y for x, y in zip(a, b)]
        texts = [f"{spread(values, '{:.1f}')} {unit}" if values else "" for values in (a, b)]
        return Row(f"POST of one reading, fsync, c={CONCURRENCY}, beside FastAPI: {measure}", *texts, ratios, **limits)

    rows = [
        row("requests", lambda found: found["requests"] / found["seconds"], "/s", must=20, aim=40, sense="least"),
        row("p50", lambda found: found["p50_us"] / 1000, "ms", must=1 / 10, aim=1 / 30),
        row("p99", lambda found: found["p99_us"] / 1000, "ms"),
    ]
    rows[0].detail = {"ours": ours, "fastapi": theirs, "memory": held}
    return rows


def installed() -> bool:
    """FastAPI, uvicorn and httpx from the Python package index, in an environment of their own."""
    python = VENV / "bin/python"
    found = [python, "-c", "import fastapi, httpx, uvicorn, uvloop"]
    if python.exists() and subprocess.run(found, stderr=subprocess.DEVNULL).returncode == 0:
        return True
    return pip("FastAPI beside REST", *PACKAGES)


class Pair:
    """The gateway and the service, a process each; they check no token, keep no limit and use no TLS."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port, self.service = free_port(), free_port()
        self.processes: list[subprocess.Popen] = []

    def __enter__(self) -> "Pair":
        env = {**os.environ, "UPSTREAM": f"http://127.0.0.1:{self.service}", "DATABASE": str(self.home / "pair.db")}
        log = (self.home / "pair.txt").open("w")
        for name, port in (("service", self.service), ("gateway", self.port)):
            command = [str(VENV / "bin/python"), "-m", "uvicorn", f"{name}:app", "--app-dir", str(HERE / "pair")]
            command += ["--port", str(port), "--no-access-log", "--log-level", "warning"]
            self.processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        for _ in range(200):
            try:
                peers.ask(self.port, "none", "post", 1, 1)
                return self
            except RuntimeError:
                time.sleep(0.1)
        self.__exit__()
        raise RuntimeError(f"the FastAPI pair did not start:\n{(self.home / 'pair.txt').read_text()[-2000:]}")

    def __exit__(self, *_) -> None:
        for process in self.processes:
            process.terminate()
            process.wait(timeout=30)
