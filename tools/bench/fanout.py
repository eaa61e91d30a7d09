"""The same batches to a hundred subscribers, beside the core of NATS and Mosquitto; and what a thousand idle subscriptions hold."""

import contextlib
import subprocess

from .broker import MOSQUITTO, OURS, Mosquitto, Nats, compare
from .system import LOAD, System, memory
from .table import Row

SUBSCRIBERS = 100
# On each connection: a connection holds no more streams than this.
IDLE = 250
CONNECTIONS = 4


def fanout(rounds: int, seconds: float) -> list[Row]:
    found: list[dict[str, dict]] = []
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(System("--split", "--no-host-sensors"))
        system.start()
        idle = held(system)
        nats = stack.enter_context(Nats()) if Nats.found() else None
        mosquitto = stack.enter_context(Mosquitto()) if Mosquitto.found() else None
        for _ in range(rounds):
            found.append({OURS: system.load("watch", "telemetry", seconds, SUBSCRIBERS)})
            if nats:
                found[-1]["NATS core"] = nats.load("nats-core", seconds, SUBSCRIBERS)
            if mosquitto:
                found[-1][MOSQUITTO] = mosquitto.load("mqtt", seconds, SUBSCRIBERS)
    name = f"publish to {SUBSCRIBERS} subscribers, 100 batches/s"
    limits = {("NATS core", "p50"): (None, None), ("NATS core", "p99"): (1, 0.7)}
    return [*compare(name, found, limits, MOSQUITTO), idle]


def streams() -> list[Row]:
    """What an idle subscription holds, alone: it does not vary, so the gate looks at it."""
    with System("--split", "--no-host-sensors") as system:
        system.start()
        return [held(system)]


def held(system: System) -> Row:
    """What telemetry holds more, by itself, while a thousand streams are open; the second time, when it has had as many before."""
    grown = []
    for _ in range(2):
        before = memory(system.service_pid("telemetry"))["anon"]
        command = [LOAD, "idle", system.address("telemetry"), system.data / "pki", "5", str(IDLE)]
        holders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(CONNECTIONS)]
        for holder in holders:
            assert holder.stdout
            if not holder.stdout.readline():
                raise RuntimeError(f"{IDLE} subscriptions were not opened")
        during = memory(system.service_pid("telemetry"))["anon"]
        for holder in holders:
            holder.wait(timeout=60)
        grown.append((during - before) * 1024 / (IDLE * CONNECTIONS))
    detail = {"kib_each": grown}
    return Row("memory of an idle subscription", f"{grown[0]:.1f} KiB", "10 KiB", [grown[0]], 10, 6.4, detail=detail)
