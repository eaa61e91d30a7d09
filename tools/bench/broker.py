"""Small batches stored, and batches on their way to a subscriber, beside NATS JetStream in files and Mosquitto in memory."""

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


OURS = "sensormesh"
MOSQUITTO = "Mosquitto"


def broker(rounds: int, seconds: float) -> list[Row]:
    stored: list[list[float]] = []
    pushed: list[dict[str, dict]] = []
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(System("--no-host-sensors"))
        system.start()
        nats = stack.enter_context(Nats()) if Nats.found() else None
        mosquitto = stack.enter_context(Mosquitto()) if Mosquitto.found() else None
        system.load("small", "telemetry", 0.5, 0)
        for number in range(rounds):
            stored.append([system.load("small", "telemetry", seconds, number + 1)["per_second"]])
            if nats:
                stored[-1].append(nats.load("nats-store", seconds, 0)["per_second"])
        for _ in range(rounds):
            pushed.append({OURS: system.load("watch", "telemetry", seconds, 1)})
            if nats:
                pushed[-1]["JetStream push"] = nats.load("nats-push", seconds, 1)
            if mosquitto:
                pushed[-1][MOSQUITTO] = mosquitto.load("mqtt", seconds, 1)
    millions = [spread([s[side] / 1e6 for s in stored if len(s) > side]) for side in (0, 1)]
    row = Row("readings stored, 100 a batch, one stream", f"{millions[0]} M/s", must=0.2, aim=0.5, sense="least")
    if nats:
        row.peer = f"{millions[1]} M/s JetStream, no fsync"
        row.ratios = [ours / theirs for ours, theirs in stored]
    name = "publish to subscriber, 1,000 batches/s"
    limits = {("JetStream push", "p50"): (1.5, 1.0), ("JetStream push", "p99"): (1.0, 1.0)}
    return [row, *compare(name, pushed, limits, MOSQUITTO)]


def compare(name: str, rounds: list[dict[str, dict]], limits: dict, reported: str) -> list[Row]:
    """Latencies of each round beside each peer's that was there: (must, aim) of those that have them, and one that is reported."""
    wanted = {**limits, **{(reported, what): (None, None) for what in ("p50", "p99")}}
    rows = []
    for (peer, what), (must, aim) in wanted.items():
        key = f"{what}_us"
        beside = [(r[OURS][key], r[peer][key]) for r in rounds if peer in r]
        if not beside and peer == reported:
            continue
        row = Row(f"{name}: {what}", spread([r[OURS][key] for r in rounds], "{:.0f}") + " µs", must=must, aim=aim)
        if beside:
            row.measure += f", beside {peer}"
            row.peer = spread([theirs for _, theirs in beside], "{:.0f}") + " µs"
            row.ratios = [ours / theirs for ours, theirs in beside]
        rows.append(row)
    rows[0].detail = {"rounds": rounds}
    return rows


class Peer:
    """A broker on this machine only; its directory is removed at the end of the `with` block."""

    name = ""
    program = ""
    package = ""

    @classmethod
    def path(cls) -> str | None:
        """Debian keeps servers where not everybody looks."""
        return shutil.which(cls.program) or shutil.which(cls.program, path="/usr/sbin:/usr/local/sbin")

    @classmethod
    def found(cls) -> bool:
        return bool(cls.path()) or apt(f"batches beside {cls.name}", cls.package)

    def arguments(self) -> list[str]:
        raise NotImplementedError

    def __enter__(self) -> "Peer":
        self.home = Path(tempfile.mkdtemp(prefix="sensormesh-bench-"))
        self.port = free_port()
        command = [self.path(), *self.arguments()]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.05)
        self.__exit__()
        raise RuntimeError(f"{self.name} did not start")

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


class Nats(Peer):
    """NATS with JetStream."""

    name = "NATS"
    program = package = "nats-server"

    def arguments(self) -> list[str]:
        return ["-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.home)]


class Mosquitto(Peer):
    """Mosquitto, which keeps nothing."""

    name = "Mosquitto"
    program = package = "mosquitto"

    def arguments(self) -> list[str]:
        config = self.home / "mosquitto.conf"
        # without nodelay it would wait for more to send
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
        return ["-c", str(config)]
