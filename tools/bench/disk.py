"""How many bytes a reading takes on disk, on real series: whole database files after sealing, merging and cutting the log."""

import json
import subprocess
import tempfile
from pathlib import Path

from machine import ROOT, skip

from . import corpus
from .table import Row

STORE = ROOT / "target/release/examples/disk"


def disk() -> list[Row]:
    if not corpus.DATA.exists():
        skip("bytes of a reading on disk", f"the real series are not there ({corpus.DATA.name})")
        return []
    rows = []
    parts = [("real series", False, 1.65, 1.45), ("the same at a sensor's resolution", True, 1.20, 1.07)]
    for name, rounded, must, aim in parts:
        with tempfile.TemporaryDirectory(prefix="sensormesh-bench-") as home:
            file = Path(home) / "corpus.bin"
            counts = corpus.write(file, rounded)
            found = stored(file, Path(home) / "data")
            file.write_bytes(b"")
            empty = stored(file, Path(home) / "empty")["files"]
        whole, codec = (found[what] / found["readings"] for what in ("files", "data"))
        # the rounded part is small: what files hold without any reading would count for a third of it
        counted = whole - empty / found["readings"] if rounded else whole
        ours = f"{whole:.3f} B, {whole - empty / found['readings']:.3f} without what empty files hold, codec {codec:.3f}"
        detail = {**found, "empty": empty, "sets": counts}
        rows.append(Row(f"a reading on disk, {name}", ours, f"{must} B", [counted], must, aim, detail=detail))
        if not rounded:
            rows.append(Row("a reading in the codec, real series", f"{codec:.3f} B", "1.40 B", [codec], 1.40))
    return rows


def stored(file: Path, directory: Path) -> dict:
    """What the example says of a corpus that it stored in a new directory."""
    result = subprocess.run([STORE, file, directory], check=True, capture_output=True, text=True)
    return json.loads(result.stdout)
