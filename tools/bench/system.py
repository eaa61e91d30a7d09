"""A running sensormesh to measure: in a directory and on ports of its own, on this machine only."""

import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from machine import ROOT

PROGRAM = ROOT / "target/release/sensormesh"
LOAD = ROOT / "target/release/examples/load"
SERVICES = ["auth", "devices", "telemetry", "adapters", "commissioning", "rooms", "edge"]
PORTS = {"edge": 0, "auth": 1, "devices": 2, "telemetry": 3, "adapters": 4, "commissioning": 5, "rooms": 6}
# The limits on one user and one address are at work, out of the way of the measures.
PLENTY = {
    f"SENSORMESH_EDGE__{who}_RATE__{what}": "1000000" for who in ("USER", "ADDRESS") for what in ("PER_SECOND", "BURST")
}
TICKS = os.sysconf("SC_CLK_TCK")


class System:
    """`sensormesh up`; stopped and its directory removed at the end of the `with` block."""

    def __init__(self, *args: str, env: dict[str, str] | None = None) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="sensormesh-bench-"))
        self.data = self.home / "data"
        self.port = free_ports()
        self.args = list(args)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SENSORMESH_", "DATABASE_URL"))}
        self.env = {**inherited, **PLENTY, **(env or {})}
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "System":
        return self

    def __exit__(self, failure, *_) -> None:
        self.stop()
        if failure:
            print(self.home.joinpath("log.txt").read_text()[-3000:])
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self) -> float:
        """Starts it; returns the seconds until it said that it is ready."""
        command = [PROGRAM, "up", "--data-dir", self.data, "--port-base", str(self.port), *self.args]
        log = (self.home / "log.txt").open("a")
        begin = time.perf_counter()
        self.process = subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, stderr=log, text=True)
        log.close()
        assert self.process.stdout
        for line in self.process.stdout:
            if line.strip() == "ready":
                return time.perf_counter() - begin
        raise RuntimeError(f"sensormesh did not start:\n{(self.home / 'log.txt').read_text()[-2000:]}")

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def service_pid(self, service: str) -> int:
        return int((self.data / f"{service}.pid").read_text())

    def address(self, service: str) -> str:
        return f"127.0.0.1:{self.port + PORTS[service]}"

    def token(self) -> str:
        password = (self.data / "admin-password").read_text().strip()
        answer = self.call("POST", "/token", {"username": "admin", "password": password})
        return answer["access_token"]

    def call(self, verb: str, path: str, body: object = None, token: str = "") -> dict:
        """One REST call; anything but success is an error."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"content-type": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        connection.request(verb, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        if response.status >= 300:
            raise RuntimeError(f"{verb} {path}: {response.status} {text[:500]!r}")
        return json.loads(text or b"{}")

    def fetch(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"GET {path}: {response.status}")
        return body

    def metric(self, service: str, name: str) -> float:
        """The sum of a metric over its labels, from the service's operations port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port + PORTS[service] + 1000, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)", text, re.MULTILINE))

    def load(self, *args: str | float) -> dict:
        """Runs the load program against this system; its line of JSON."""
        mode, service, *rest = args
        return self.load_at(self.address(str(service)), mode, *rest)

    def load_at(self, address: str, mode: str | float, *rest: str | float) -> dict:
        """The same against what stands before it, which asks for a certificate as well."""
        return self.run_load([str(mode), address, self.data / "pki", *map(str, rest)], self.env)

    def load_as(self, token: str, port: int, mode: str, *rest: str | float) -> dict:
        """The same as a user of an edge."""
        return self.run_load([mode, f"127.0.0.1:{port}", "-", *map(str, rest)], {**self.env, "SENSORMESH_TOKEN": token})

    @staticmethod
    def run_load(arguments: list, env: dict) -> dict:
        mode = arguments[0]
        result = subprocess.run([LOAD, *arguments], env=env, capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"load {mode}: {result.stderr[-500:]}")
        return json.loads(result.stdout)


def free_ports() -> int:
    """A base with every port free that a system uses, its operations ports 1,000 above among them."""
    for _ in range(200):
        base = random.randrange(10_000, 30_000, 2_000) + random.randrange(0, 980, 20)
        held = []
        try:
            for port in (p for offset in range(14) for p in (base + offset, base + 1000 + offset)):
                held.append(socket.create_server(("127.0.0.1", port)))
            return base
        except OSError:
            continue
        finally:
            for listener in held:
                listener.close()
    raise RuntimeError("no range of free ports was found")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def memory(pid: int) -> dict[str, float]:
    """A process's memory in MiB: all that is resident; what is its own (anonymous) and what is of files; and its share of
    the machine's memory, in which a page that n processes map counts for an nth in each."""
    text = Path(f"/proc/{pid}/status").read_text() + Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.findall(r"^(VmRSS|RssAnon|RssFile|Pss):\s+(\d+) kB", text, re.MULTILINE)
    value = {key: int(n) / 1024 for key, n in found}
    return {"rss": value["VmRSS"], "anon": value["RssAnon"], "file": value["RssFile"], "share": value["Pss"]}


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used so far, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
