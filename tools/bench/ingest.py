"""How many readings a second become durable, beside the same readings as rows in SQLite and in other databases."""

import contextlib

from . import peers
from .databases import Database, InfluxDB, VictoriaMetrics
from .program import START
from .system import System, memory
from .table import Row, spread


def ingest(rounds: int, seconds: float) -> list[Row]:
    ours, plain, counts = [], [], {"batches": 0.0, "commits": 0.0}
    theirs: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(System("--no-host-sensors"))
        system.start()
        databases = [stack.enter_context(kind()) for kind in (InfluxDB, VictoriaMetrics) if kind.found()]
        system.load("ingest", "telemetry", 0.5, 0)
        for number in range(rounds):
            before = tallies(system)
            ours.append(system.load("ingest", "telemetry", seconds, number + 1)["per_second"])
            after = tallies(system)
            counts = {key: counts[key] + after[key] - before[key] for key in counts}
            plain.append(peers.sqlite_insert(system.home, seconds, number))
            for database in databases:
                theirs.setdefault(database.name, []).append(database.store())
        after_load = memory(system.pid)
        readings = system.metric("telemetry", "sensormesh_telemetry_readings_total")
        system.stop()
        again = []
        for _ in range(rounds):
            again.append(system.start())
            system.stop()
    millions = "{:.2f}"
    row = Row(
        "readings stored durably (IngestStream)",
        spread([n / 1e6 for n in ours], millions) + " M/s",
        spread([n / 1e6 for n in plain], millions) + " M rows/s SQLite",
        [a / b for a, b in zip(ours, plain)],
        must=8,
        aim=15,
        sense="least",
        detail={"ours": ours, "sqlite": plain, "memory_after_mib": after_load, **counts},
    )
    rows = [row, *(beside(database, ours, theirs[database.name]) for database in databases)]
    if counts["batches"]:
        per_thousand = 1000 * counts["commits"] / counts["batches"]
        rows.append(Row("commits for 1,000 batches acknowledged", f"{per_thousand:.0f}", detail=counts))
    rows.append(Row("memory of up after that", f"{after_load['rss']:.1f} MiB, {after_load['anon']:.1f} its own"))
    name = f"start to ready, {readings / 1e6:.0f} M readings"
    rows.append(Row(name, spread([s * 1000 for s in again], "{:.0f}") + " ms", "1 s", again, **START))
    return rows


# At least so many times the readings of each.
LIMITS = {"InfluxDB": {"must": 6, "aim": 12}, "VictoriaMetrics": {"must": 2, "aim": 4}}


def beside(database: Database, ours: list[float], theirs: list[float]) -> Row:
    def millions(values: list[float]) -> str:
        return spread([n / 1e6 for n in values], "{:.2f}") + " M/s"

    return Row(
        f"readings stored durably beside {database.name}",
        millions(ours),
        millions(theirs),
        [a / b for a, b in zip(ours, theirs)],
        sense="least",
        detail={"ours": ours, "theirs": theirs, "why": database.__doc__},
        **LIMITS[database.name],
    )


def tallies(system: System) -> dict[str, float]:
    return {
        "batches": system.metric("telemetry", "sensormesh_telemetry_batches_total"),
        "commits": system.metric("telemetry", "sensormesh_telemetry_commit_duration_seconds_count"),
    }
