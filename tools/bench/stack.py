"""What the stacks of calls cost: a unary call that does nothing, over mutual TLS, beside tonic alone in the same run."""

import json
import statistics
import subprocess

from machine import ROOT

from .table import Row, spread

STACK = ROOT / "target/release/examples/stack"
ALONE = "tonic alone"
WHOLE = "both"


def stack(rounds: int, seconds: float) -> list[Row]:
    result = subprocess.run([STACK, str(seconds), str(rounds)], capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    rows = []
    for way, measured in found.items():
        ratios = {what: [o / a for o, a in zip(measured[what], found[ALONE][what])] for what in measured}
        limits = [{"must": 1.25}, {"must": 0.8, "sense": "least"}] if way == WHOLE else [{}, {}]
        for (what, name, unit), limit in zip([("p50_us", "p50", "µs"), ("per_second", "calls, 32 at once", "/s")], limits):
            ours, alone = (spread(found[of][what], "{:.0f}") + f" {unit}" for of in (way, ALONE))
            rows.append(Row(f"unary call, {way}: {name}", ours, alone, [] if way == ALONE else ratios[what], **limit))
    rows[0].detail = {"rounds": found, "middle": {way: statistics.median(m["p50_us"]) for way, m in found.items()}}
    return rows
