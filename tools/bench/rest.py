"""POSTs of one reading, synced to disk before the answer, beside a gateway and a service in FastAPI that do the same."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from machine import skip

from . import peers
from .system import System, free_port
from .table import Row, spread

HERE = Path(__file__).parent
PACKAGES = ["fastapi==0.165.0", "uvicorn[standard]==0.54.0", "httpx==0.28.1"]
CONCURRENCY = 32
TOKEN = "a-token-of-the-pair"


def rest(rounds: int, seconds: float) -> list[Row]:
    if not peers.wrk() or not installed():
        return []
    found: dict[str, list[dict]] = {"ours": [], "theirs": []}
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(System("--split", "--no-host-sensors"))
        system.start()
        pair = stack.enter_context(Pair(system.home))
        system.load("unary", "telemetry", 0.5, CONCURRENCY)
        for _ in range(rounds):
            for who, port, token in (("ours", system.port, system.token()), ("theirs", pair.port, TOKEN)):
                found[who].append(peers.ask(port, token, "post", CONCURRENCY, seconds))
    ours, theirs = found["ours"], found["theirs"]

    def of(side: list[dict], what: str) -> list[float]:
        return [r["requests"] / r["seconds"] if what == "rate" else r["p50_us"] for r in side]

    def row(name: str, what: str, unit: str, **limits) -> Row:
        mine, other = of(ours, what), of(theirs, what)
        ratios = [a / b for a, b in zip(mine, other)]
        texts = (f"{spread(values, '{:.0f}')} {unit}" for values in (mine, other))
        return Row(f"POST of one reading, fsync, c={CONCURRENCY}, beside FastAPI: {name}", *texts, ratios, **limits)

    rows = [
        row("requests", "rate", "/s", must=20, aim=40, sense="least"),
        row("p50", "p50", "µs", must=0.1, aim=1 / 30),
    ]
    rows[0].detail = found
    return rows


def installed() -> bool:
    """The pair's packages, in the environment that the bench's other tools are in."""
    python = peers.VENV / "bin/python"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    commands = [[python, "-c", "import fastapi, uvicorn, httpx"], [peers.VENV / "bin/pip", "install", "-q", *PACKAGES]]
    if not python.exists():
        commands.insert(0, [sys.executable, "-m", "venv", peers.VENV])
        commands.pop(1)
    elif subprocess.run(commands.pop(0), **quiet).returncode == 0:
        return True
    for command in commands:
        result = subprocess.run(command, **quiet)
        if result.returncode != 0:
            skip("POSTs beside FastAPI", f"it could not be installed: {result.stderr.strip()[-200:]}")
            return False
    return True


class Pair:
    """The gateway and the service, a process each."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.processes: list[subprocess.Popen] = []

    def __enter__(self) -> "Pair":
        inner = free_port()
        env = {**os.environ, "TOKEN": TOKEN, "SERVICE_URL": f"http://127.0.0.1:{inner}", "DATABASE": str(self.home / "pair.db")}
        log = (self.home / "pair.txt").open("w")
        for app, port in (("service", inner), ("gateway", self.port)):
            command = [peers.VENV / "bin/python", "-m", "uvicorn", f"fastapi_pair:{app}", "--port", str(port), "--no-access-log"]
            self.processes.append(subprocess.Popen(command, cwd=HERE, env=env, stdout=log, stderr=subprocess.STDOUT))
        for port in (inner, self.port):
            for _ in range(200):
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            else:
                self.__exit__()
                raise RuntimeError(f"the pair did not start:\n{(self.home / 'pair.txt').read_text()[-2000:]}")
        return self

    def __exit__(self, *_) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(timeout=30)
