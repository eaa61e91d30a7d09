"""Small batches stored, and batches on their way to a subscriber, beside NATS JetStream with its storage in files."""

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from machine import apt

from .system import LOAD, System, free_port
from .table import Row, spread


def broker(rounds: int, seconds: float) -> list[Row]:
    stored: list[list[float]] = []
    pushed: list[list[dict]] = []
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(System("--no-host-sensors"))
        system.start()
        nats = stack.enter_context(Nats()) if Nats.found() else None
        system.load("small", "telemetry", 0.5, 0)
        for number in range(rounds):
            stored.append([system.load("small", "telemetry", seconds, number + 1)["per_second"]])
            if nats:
                stored[-1].append(nats.load("nats-store", seconds, 0)["per_second"])
        for _ in range(rounds):
            pushed.append([system.load("watch", "telemetry", seconds, 1)])
            if nats:
                pushed[-1].append(nats.load("nats-push", seconds, 1))
    millions = [spread([s[side] / 1e6 for s in stored if len(s) > side]) for side in (0, 1)]
    row = Row("readings stored, 100 a batch, one stream", f"{millions[0]} M/s", must=0.2, aim=0.5, sense="least")
    if nats:
        row.peer = f"{millions[1]} M/s JetStream, no fsync"
        row.ratios = [ours / theirs for ours, theirs in stored]
    name = "publish to subscriber, 1,000 batches/s"
    return [row, compare(name, pushed, "p50", "JetStream push", 1.5, 1), compare(name, pushed, "p99", "JetStream push", 1, 1)]


def compare(name: str, rounds: list[list[dict]], what: str, peer: str, must: float, aim: float) -> Row:
    """A latency of each round beside the peer's, where there is one."""
    key = f"{what}_us"
    row = Row(f"{name}: {what}", spread([r[0][key] for r in rounds], "{:.0f}") + " µs", must=must, aim=aim)
    if beside := [r for r in rounds if len(r) > 1]:
        row.peer = spread([r[1][key] for r in beside], "{:.0f}") + f" µs {peer}"
        row.ratios = [r[0][key] / r[1][key] for r in beside]
    row.detail = {"rounds": rounds}
    return row


class Nats:
    """NATS with JetStream, on this machine only; its directory is removed at the end of the `with` block."""

    @staticmethod
    def found() -> bool:
        return bool(shutil.which("nats-server")) or apt("batches beside NATS", "nats-server")

    def __enter__(self) -> "Nats":
        self.home = Path(tempfile.mkdtemp(prefix="sensormesh-bench-"))
        self.port = free_port()
        command = ["nats-server", "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.home)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.05)
        self.__exit__()
        raise RuntimeError("NATS did not start")

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)
        shutil.rmtree(self.home, ignore_errors=True)

    def load(self, mode: str, seconds: float, number: int) -> dict:
        command = [LOAD, mode, f"127.0.0.1:{self.port}", "-", str(seconds), str(number)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"load {mode}: {result.stderr[-500:]}")
        return json.loads(result.stdout)
