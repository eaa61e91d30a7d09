"""Rows of the table: what was measured, beside its peer or its limit, and the verdict."""

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Row:
    """One measure. `ratios` are of the same round each, so that a disturbance hits both sides of a ratio."""

    measure: str
    ours: str
    peer: str = ""
    ratios: list[float] = field(default_factory=list)
    must: float | None = None
    aim: float | None = None
    # "least": the ratio must be at least `must`; "most": at most.
    sense: str = "most"
    # A time on one machine says nothing about another: it is reported and never fails the run.
    gated: bool = True
    detail: dict = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.must is None or not self.ratios:
            return "reported"
        middle = statistics.median(self.ratios)
        better = (lambda limit: middle <= limit) if self.sense == "most" else (lambda limit: middle >= limit)
        if self.aim is not None and better(self.aim):
            return "aim"
        return "must" if better(self.must) else "MISSED"

    @property
    def failed(self) -> bool:
        return self.gated and self.verdict == "MISSED"


def spread(values: list[float], form: str = "{:.2f}") -> str:
    """Least, median and greatest of several rounds."""
    if not values:
        return ""
    return " / ".join(form.format(v) for v in (min(values), statistics.median(values), max(values)))


def limit(row: Row, value: float | None) -> str:
    return "" if value is None else f"{'≤' if row.sense == 'most' else '≥'} {value:g}"


def show(rows: list[Row]) -> None:
    head = ["measure", "ours", "peer or limit", "ratio min / median / max", "must", "aim", "verdict"]
    cells = [
        [r.measure, r.ours, r.peer, spread(r.ratios), limit(r, r.must), limit(r, r.aim), r.verdict] for r in rows
    ]
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    for line in [head, ["-" * w for w in widths], *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip(), flush=True)


def write(rows: list[Row], conditions: dict, skipped: list[str], folder: Path) -> None:
    """`results.json`, a row each, and under what conditions they were found in `conditions.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps([result(row) for row in rows], indent=1) + "\n")
    (folder / "conditions.json").write_text(json.dumps({**conditions, "skipped": skipped}, indent=1) + "\n")


def result(row: Row) -> dict:
    ratios = row.ratios
    ratio = {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)} if ratios else None
    return {
        "name": row.measure,
        "ours": row.ours,
        "peer": row.peer,
        "ratio": ratio,
        "must": row.must,
        "aim": row.aim,
        "met_aim": row.verdict == "aim" if row.aim is not None and ratios else None,
        "detail": row.detail,
    }
