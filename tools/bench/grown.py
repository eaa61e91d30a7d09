"""What telemetry holds by itself after a load: readings of 200 sensors as fast as they are taken, and 100,000 sensors."""

import time

from .system import System, memory
from .table import Row

# Seconds after a load until memory is looked at: by then all is sealed that will be.
REST = 15
SENSORS = 100_000
# Of 1,000 readings of 200 sensors.
BATCHES = 20_000


def grown() -> list[Row]:
    rows = []
    with System("--split", "--no-host-sensors") as system:
        system.start()
        telemetry = system.service_pid("telemetry")
        system.load("count-stream", "telemetry", 1, BATCHES)
        during = memory(telemetry)
        time.sleep(REST)
        name = f"memory of telemetry after {BATCHES // 1000} M readings of 200 sensors"
        rows.append(row(name, memory(telemetry), during, must=48, aim=24))
    with System("--split", "--no-host-sensors") as system:
        system.start()
        telemetry = system.service_pid("telemetry")
        before = memory(telemetry)["anon"]
        system.load("many", "telemetry", 0, SENSORS)
        during = memory(telemetry)
        time.sleep(REST)
        after = memory(telemetry)
        rows.append(row(f"memory of telemetry with {SENSORS:,} sensors", after, during, must=192, aim=None))
        rows[-1].detail["kib_each"] = (after["anon"] - before) * 1024 / SENSORS
    return rows


def row(name: str, found: dict[str, float], during: dict[str, float], must: float, aim: float | None) -> Row:
    """The limits hold for the process's share of memory, as of one that is idle."""
    ours = f"{found['share']:.1f} MiB, {found['anon']:.1f} its own, {during['share']:.1f} at the load's end"
    return Row(name, ours, f"{must} MiB", [found["share"]], must, aim, detail={**found, "at_the_end": during})
