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
            result = subprocess.run([STORE, file, Path(home) / "data"], check=True, capture_output=True, text=True)
        found = json.loads(result.stdout)
        whole, codec = (found[what] / found["readings"] for what in ("files", "data"))
        ours = f"{whole:.3f} B, of it the codec {codec:.3f}"
        detail = {**found, "sets": counts}
        rows.append(Row(f"a reading on disk, {name}", ours, f"{must} B", [whole], must, aim, detail=detail))
        if not rounded:
            rows.append(Row("a reading in the codec, real series", f"{codec:.3f} B", "1.40 B", [codec], 1.40))
    return rows
