"""How many bytes a reading takes on disk, on real series: whole database files after sealing, merging and cutting the log. And
how many of them are time columns that a device's channels have in common (docs/adr/0010-a-block-has-its-own-times.md)."""

import contextlib
import json
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from machine import ROOT, skip

from . import corpus
from .table import Row

STORE = ROOT / "target/release/examples/disk"


def disk() -> list[Row]:
    rows = part("made-up series", corpus.made_up(), 0.78, None, 0.68)
    rows += part("times to the millisecond", corpus.to_the_millisecond(), None, None, None)
    if not corpus.DATA.exists():
        skip("bytes of a reading of real series", f"they are not there ({corpus.DATA.name})")
        return rows
    rows += part("real series", corpus.series(), 1.65, 1.45, 1.40)
    return rows + part("the same at a sensor's resolution", corpus.rounded(), 1.20, 1.07, None)


def part(
    name: str, found: Iterator[tuple[str, corpus.Series]], must: float | None, aim: float | None, codec: float | None
) -> list[Row]:
    """Whole files, where it has a limit the codec alone, and the time columns."""
    with tempfile.TemporaryDirectory(prefix="sensormesh-bench-") as home:
        file = Path(home) / "corpus.bin"
        counts = corpus.write(file, found)
        kept = stored(file, Path(home) / "data")
        times = columns(Path(home) / "data" / "telemetry.db")
        file.write_bytes(b"")
        empty = stored(file, Path(home) / "empty")["files"]
    whole, data = (kept[what] / kept["readings"] for what in ("files", "data"))
    more = whole - empty / kept["readings"]
    # where readings are few, what files hold without any reading would count for a third
    counted = whole if name == "real series" else more
    ours = f"{whole:.3f} B, {more:.3f} without what empty files hold, codec {data:.3f}"
    detail = {**kept, "empty": empty, "sets": counts, "times": times}
    rows = [Row(f"a reading on disk, {name}", ours, f"{must} B" if must else "", [counted], must, aim, detail=detail)]
    if codec:
        rows.append(Row(f"a reading in the codec, {name}", f"{data:.3f} B", f"{codec:.2f} B", [data], codec))
    taken, again = (100 * sum(counts[what] for counts in times.values()) / kept["data"] for what in ("times", "again"))
    rows.append(Row(f"times in the codec, {name}", f"{taken:.2f} %; {again:.2f} % stand in a block of the same device already"))
    return rows


def columns(database: Path) -> dict[str, dict[str, int]]:
    """For each device the bytes of its blocks, of their time columns, and of those that another block of it has, byte by byte."""
    devices: dict[str, dict[str, int]] = {}
    seen: set[tuple[str, bytes]] = set()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        query = "SELECT sensor_id, data FROM block JOIN series USING (tenant, series) WHERE level = 0"
        for sensor, data in connection.execute(query):
            device, times = sensor.split(".")[0], section(data)
            counts = devices.setdefault(device, {"data": 0, "times": 0, "again": 0})
            counts["data"] += len(data)
            counts["times"] += len(times)
            counts["again"] += len(times) if (device, times) in seen else 0
            seen.add((device, times))
    return devices


def section(data: bytes) -> bytes:
    """A block's first section, its times: behind their length as a varint."""
    length = place = 0
    while True:
        byte = data[place]
        length |= (byte & 0x7F) << 7 * place
        place += 1
        if byte < 0x80:
            return data[place : place + length]


def stored(file: Path, directory: Path) -> dict:
    """What the example says of a corpus that it stored in a new directory."""
    result = subprocess.run([STORE, file, directory], check=True, capture_output=True, text=True)
    return json.loads(result.stdout)
