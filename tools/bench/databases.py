"""Databases that store readings, as peers of the ingest: InfluxDB and VictoriaMetrics, by their own line protocol."""

import http.client
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from machine import apt

from .system import free_port, memory

SENSORS = 200
# Lines in a request: what both take best.
LINES = 5_000
# Requests of a round, and how many are on their way at once.
REQUESTS = 120
CONNECTIONS = 4


class Database:
    """A database on this machine only, in a directory of its own; ended and removed at the end of the `with` block."""

    name = ""
    package = ""
    program = ""
    # Where lines go to, with times in nanoseconds.
    path = ""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="sensormesh-bench-"))
        self.port = free_port()
        self.time = time.time_ns() - 7 * 24 * 3600 * 10**9

    @classmethod
    def found(cls) -> bool:
        return bool(shutil.which(cls.program)) or apt(f"readings beside {cls.name}", cls.package)

    def command(self) -> list[str]:
        raise NotImplementedError

    def __enter__(self) -> "Database":
        quiet = {"stdout": subprocess.DEVNULL, "stderr": (self.home / "log.txt").open("w")}
        self.process = subprocess.Popen(self.command(), cwd=self.home, **quiet)
        for _ in range(400):
            try:
                self.ask("GET", "/ping" if self.name == "InfluxDB" else "/health")
                return self
            except OSError:
                time.sleep(0.05)
        self.__exit__()
        raise RuntimeError(f"{self.name} did not start")

    def __exit__(self, *_) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def ask(self, verb: str, path: str, body: bytes | None = None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(verb, path, body)
        response = connection.getresponse()
        response.read()
        connection.close()
        if response.status >= 300:
            raise RuntimeError(f"{self.name}: {verb} {path}: {response.status}")

    def memory(self) -> dict[str, float]:
        return memory(self.process.pid)

    def bodies(self) -> list[bytes]:
        """The requests of a round, written before its time starts: no time of ours counts against the database."""
        made = []
        for number in range(REQUESTS):
            lines = []
            for tick in range(LINES // SENSORS):
                self.time += 1_000_000
                level = 2000 + (number * 7 + tick) % 50
                lines += [f"r,s={s} v={(level + s) / 100:.2f} {self.time}" for s in range(SENSORS)]
            made.append("\n".join(lines).encode())
        return made

    def store(self) -> float:
        """Sends a round of readings; how many a second were acknowledged."""
        bodies = self.bodies()
        failures: list[str] = []

        def send(mine: list[bytes]) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            for body in mine:
                connection.request("POST", self.path, body)
                response = connection.getresponse()
                response.read()
                if response.status >= 300:
                    failures.append(f"{self.name} refused readings: {response.status}")
                    return
            connection.close()

        threads = [threading.Thread(target=send, args=(bodies[i::CONNECTIONS],)) for i in range(CONNECTIONS)]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - begin
        if failures:
            raise RuntimeError(failures[0])
        return REQUESTS * LINES / elapsed


class InfluxDB(Database):
    """InfluxDB 1: syncs its log to disk for every request."""

    name = "InfluxDB"
    package = "influxdb"
    program = "influxd"
    path = "/write?db=bench&precision=ns"

    def command(self) -> list[str]:
        config = self.home / "influxdb.conf"
        config.write_text(
            f"""reporting-disabled = true
bind-address = "127.0.0.1:{free_port()}"
[meta]
dir = "{self.home}/meta"
[data]
dir = "{self.home}/data"
wal-dir = "{self.home}/wal"
index-version = "tsi1"
query-log-enabled = false
[http]
bind-address = "127.0.0.1:{self.port}"
log-enabled = false
[monitor]
store-enabled = false
"""
        )
        return [self.program, "-config", str(config)]

    def __enter__(self) -> "Database":
        super().__enter__()
        self.ask("POST", "/query?q=CREATE+DATABASE+bench")
        return self


class VictoriaMetrics(Database):
    """VictoriaMetrics: answers before anything is synced to disk."""

    name = "VictoriaMetrics"
    package = "victoria-metrics"
    program = "victoria-metrics"
    path = "/write?precision=ns"

    def command(self) -> list[str]:
        return [
            self.program,
            f"-storageDataPath={self.home}/data",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            "-loggerLevel=ERROR",
        ]
