"""Series as a file that the measure of disk space reads: real ones out of ../shared/data, 164 of nine sets; or made-up ones,
the same everywhere."""

import csv
import datetime
import gzip
import random
import struct
from collections.abc import Iterator
from pathlib import Path

from machine import ROOT

DATA = ROOT.parent / "shared" / "data"
UTC = datetime.timezone.utc
# Sets whose files carry digits that no sensor has; the others are the same when they are rounded.
ROUNDED = ("robod", "etth1", "uci_air")

# The name of a series, and its readings: time in milliseconds, value.
Series = tuple[str, list[tuple[int, float]]]


def rows(path: Path) -> Iterator[list[str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from csv.reader(file)


def millis(text: str, form: str) -> int:
    return int(datetime.datetime.strptime(text, form).replace(tzinfo=UTC).timestamp() * 1000)


def columns(name: str, names: list[str], lines: Iterator[tuple[int, list[str]]], missing: tuple[str, ...]) -> Iterator[Series]:
    """The columns of a table as series, without what is missing and without a time that comes again."""
    series: list[list[tuple[int, float]]] = [[] for _ in names]
    for time, cells in lines:
        for readings, cell in zip(series, cells):
            if cell not in missing and (not readings or readings[-1][0] < time):
                readings.append((time, float(cell)))
    for column, readings in zip(names, series):
        if readings:
            yield f"{name}.{''.join(c if c.isalnum() else '_' for c in column)}", readings


def beijing(path: Path) -> Iterator[Series]:
    table = rows(path)
    head = next(table)
    wanted = [i for i, column in enumerate(head) if column not in ("No", "year", "month", "day", "hour", "wd", "station")]
    lines = ((millis("-".join(row[1:5]), "%Y-%m-%d-%H"), [row[i] for i in wanted]) for row in table)
    return columns(path.name.split("_2")[0], [head[i] for i in wanted], lines, ("NA", ""))


def plain(name: str, path: Path, form: str, skip: int = 1, missing: tuple[str, ...] = ("",)) -> Iterator[Series]:
    table = rows(path)
    head = next(table)
    lines = ((millis(" ".join(row[:skip]), form), row[skip:]) for row in table)
    return columns(name, head[skip:], lines, missing)


def robod(path: Path) -> Iterator[Series]:
    table = rows(path)
    head = next(table)
    lines = ((millis(row[0][:16], "%Y-%m-%d %H:%M"), row[1:]) for row in table)
    return columns(path.name.split(".")[0], head[1:], lines, ("", "NA", "nan"))


def occupancy(path: Path) -> Iterator[Series]:
    # the header has one name fewer than the rows
    table = rows(path)
    head = next(table)
    lines = ((millis(row[1], "%Y-%m-%d %H:%M:%S"), row[2:]) for row in table)
    return columns(path.name.split(".")[0], head[1:], lines, ("",))


def wsn(path: Path) -> Iterator[Series]:
    table = rows(path)
    next(table)
    motes: dict[str, list[tuple[int, list[str]]]] = {}
    for row in table:
        lines = motes.setdefault(row[1], [])
        lines.append((1_270_000_000_000 + len(lines) * 5000, row[3:5]))
    for mote, lines in motes.items():
        yield from columns(f"wsn{mote}", ["humidity", "temperature"], iter(lines), ("",))


def series() -> Iterator[tuple[str, Series]]:
    """Every series and the set that it belongs to."""
    folder = DATA / "series"
    stamp = "%Y-%m-%d %H:%M:%S"
    for path in sorted(folder.glob("beijing_*.csv.gz")):
        yield from (("beijing", s) for s in beijing(path))
    for path in sorted(folder.glob("robod_*.csv.gz")):
        yield from (("robod", s) for s in robod(path))
    yield from (("household", s) for s in plain("household", folder / "household_power_hourly_2006_2009.csv.gz", stamp))
    yield from (("etth1", s) for s in plain("etth1", folder / "etth1.csv.gz", stamp))
    air = plain("uci_air", folder / "uci_air_quality_2004.csv.gz", stamp, 2, ("", "-200", "-200.0"))
    yield from (("uci_air", s) for s in air)
    for path in sorted(folder.glob("occupancy_*.csv.gz")):
        yield from (("occupancy", s) for s in occupancy(path))
    for path in sorted((DATA / "anomaly" / "nab").glob("*__*.csv.gz")):
        name = "nab_real" if path.name.startswith("real") else "nab_art"
        yield from ((name, s) for s in plain(path.name.split(".")[0], path, stamp))
    yield from (("wsn", s) for s in wsn(DATA / "anomaly" / "wsn_multihop_labelled.csv.gz"))


def decimals(name: str) -> int:
    """The digits that a sensor of this kind plausibly has."""
    if name.startswith("etth1"):
        return 3
    return 4 if "kWh" in name or name.endswith(".AH") else 2


def made_up() -> Iterator[tuple[str, Series]]:
    """A temperature, a humidity, a power and a counter in twelve rooms: every ten seconds, some of them missing."""
    chance = random.Random(1)
    for room in range(12):
        kinds = {"temperature": (21.0, 0.2, 2), "humidity": (45.0, 1.0, 1), "power": (300.0, 60.0, 0), "energy": (1000.0, 0.0, 3)}
        for kind, (level, step, digits) in kinds.items():
            readings, now = [], 1_700_000_000_000
            for _ in range(8192):
                now += 10_000 if chance.random() < 0.99 else 20_000
                # a counter goes up only
                level += step * (chance.random() - 0.5) if step else 0.04 * chance.random()
                readings.append((now, round(level, digits)))
            yield "made_up", (f"room{room}.{kind}", readings)


def to_the_millisecond() -> Iterator[tuple[str, Series]]:
    """Four temperatures in each of twelve rooms, read together every ten seconds by a clock that is up to 20 ms late."""
    chance = random.Random(2)
    for room in range(12):
        times = [1_700_000_000_000 + 10_000 * i + chance.randrange(20) for i in range(8192)]
        for channel in range(4):
            level, readings = 21.0, []
            for time in times:
                level += 0.2 * (chance.random() - 0.5)
                readings.append((time, round(level, 2)))
            yield "to_the_millisecond", (f"room{room}.temperature{channel}", readings)


def write(path: Path, found: Iterator[tuple[str, Series]]) -> dict[str, int]:
    """Writes series, and says how many readings each set has: for each series the length of its name, the name, the number of
    readings, their times in nanoseconds, their values."""
    counts: dict[str, int] = {}
    with path.open("wb") as file:
        for kind, (name, readings) in found:
            counts[kind] = counts.get(kind, 0) + len(readings)
            label = name.encode()
            file.write(struct.pack("<H", len(label)) + label + struct.pack("<I", len(readings)))
            file.write(struct.pack(f"<{len(readings)}q", *(time * 1_000_000 for time, _ in readings)))
            file.write(struct.pack(f"<{len(readings)}d", *(value for _, value in readings)))
    return counts


def rounded() -> Iterator[tuple[str, Series]]:
    """The part of the real series that rounding to a sensor's digits changes, rounded."""
    for kind, (name, readings) in series():
        if kind in ROUNDED:
            yield kind, (name, [(time, round(value, decimals(name))) for time, value in readings])
