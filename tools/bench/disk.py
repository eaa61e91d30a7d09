"""How many bytes a reading takes on disk, on real series: whole database files after sealing, merging and cutting the log."""

import json
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
    if not corpus.DATA.exists():
        skip("bytes of a reading of real series", f"they are not there ({corpus.DATA.name})")
        return rows
    rows += part("real series", corpus.series(), 1.65, 1.45, 1.40)
    return rows + part("the same at a sensor's resolution", corpus.rounded(), 1.20, 1.07, None)


def part(name: str, found: Iterator[tuple[str, corpus.Series]], must: float, aim: float | None, codec: float | None) -> list[Row]:
    """Whole files, and where it has a limit, the codec alone."""
    with tempfile.TemporaryDirectory(prefix="sensormesh-bench-") as home:
        file = Path(home) / "corpus.bin"
        counts = corpus.write(file, found)
        kept = stored(file, Path(home) / "data")
        file.write_bytes(b"")
        empty = stored(file, Path(home) / "empty")["files"]
    whole, data = (kept[what] / kept["readings"] for what in ("files", "data"))
    more = whole - empty / kept["readings"]
    # where readings are few, what files hold without any reading would count for a third
    counted = whole if name == "real series" else more
    ours = f"{whole:.3f} B, {more:.3f} without what empty files hold, codec {data:.3f}"
    detail = {**kept, "empty": empty, "sets": counts}
    rows = [Row(f"a reading on disk, {name}", ours, f"{must} B", [counted], must, aim, detail=detail)]
    if codec:
        rows.append(Row(f"a reading in the codec, {name}", f"{data:.3f} B", f"{codec:.2f} B", [data], codec))
    return rows


def stored(file: Path, directory: Path) -> dict:
    """What the example says of a corpus that it stored in a new directory."""
    result = subprocess.run([STORE, file, directory], check=True, capture_output=True, text=True)
    return json.loads(result.stdout)
