"""History out of ten million readings: a sensor's last day beside a SQL row table, a week of minutes beside VictoriaMetrics;
and how fast the program starts with all that on disk."""

import contextlib
import http.client
import sqlite3
import statistics
import time
from pathlib import Path
from urllib.parse import urlencode

from .databases import VictoriaMetrics
from .program import START
from .system import System
from .table import Row, spread

SENSORS = 200
STEP = 12
DAY = 24 * 3600
DAYS = 7
# Of which the means are asked for.
MEANS = 50


def query(rounds: int, seconds: float) -> list[Row]:
    # a whole minute in the past: neither too new for us nor after what VictoriaMetrics answers up to by itself
    end = int(time.time()) // 60 * 60 - 60
    days: list[list[float]] = []
    weeks: list[list[float]] = []
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(System("--no-host-sensors"))
        system.start()
        filled = system.load("fill", "telemetry", 0, end)
        table = rows_of(system.home / "rows.db", end)
        stack.callback(table.close)
        database = stack.enter_context(VictoriaMetrics()) if VictoriaMetrics.found() else None
        if database:
            send(database, end)
        system.load("history", "telemetry", 0.5, end)
        for _ in range(rounds):
            days.append([system.load("history", "telemetry", seconds, end)["p50_us"], *last_days(table, seconds, end)])
            weeks.append([system.load("means", "telemetry", seconds, end)["p50_us"]])
            if database:
                weeks[-1].append(week(database, seconds, end))
        system.stop()
        again = []
        for _ in range(max(rounds, 5)):
            again.append(system.start())
            system.stop()
    day = Row(
        "last 24 h of one sensor of 10 M readings (whole call over mTLS)",
        millis([d[0] for d in days]),
        millis([d[1] for d in days]) + " SQLite, fetched by Python",
        [d[0] / d[1] for d in days],
        must=1 / 2,
        aim=1 / 4,
        detail={"ours_us": [d[0] for d in days], "rows_us": [d[1] for d in days], "summed_rows_us": [d[2] for d in days]},
    )
    # Python makes objects of the rows, which takes longer than reading them: the least that a row table can take stands beside it
    least = Row(
        "the same beside rows that are only added up inside SQLite",
        day.ours,
        millis([d[2] for d in days]),
        [d[0] / d[2] for d in days],
    )
    mean = Row(f"means of 1 min, 7 d, {MEANS} sensors (whole gRPC answer)", millis([w[0] for w in weeks]), must=1 / 2, aim=1 / 5)
    if database:
        mean.peer = millis([w[1] for w in weeks]) + " VictoriaMetrics"
        mean.ratios = [w[0] / w[1] for w in weeks]
    begun = Row("start to ready, 10 M readings", spread([s * 1000 for s in again], "{:.0f}") + " ms", "1 s", again, **START)
    begun.detail = {"seconds": again, **filled}
    return [day, least, mean, begun]


def millis(micros: list[float]) -> str:
    return spread([m / 1000 for m in micros]) + " ms"


def level(sensor: int, tick: int) -> int:
    """What the load program stores, in hundredths."""
    return 2000 + sensor + (tick * (7 + sensor % 5) // 3) % 23


def rows_of(file: Path, end: int) -> sqlite3.Connection:
    """The same readings as rows, by sensor and time."""
    db = sqlite3.connect(file, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA cache_size = -262144")
    db.execute("CREATE TABLE r (s INTEGER, t INTEGER, v REAL, PRIMARY KEY (s, t)) WITHOUT ROWID")
    begin = end - DAYS * DAY
    for sensor in range(SENSORS):
        db.execute("BEGIN")
        rows = ((sensor, begin + n * STEP, level(sensor, n) / 100) for n in range(DAYS * DAY // STEP))
        db.executemany("INSERT INTO r VALUES (?, ?, ?)", rows)
        db.execute("COMMIT")
    return db


def last_days(db: sqlite3.Connection, seconds: float, end: int) -> tuple[float, float]:
    """Microseconds that the rows of a sensor's last day take to be fetched; and only to be read and added up inside SQLite."""
    medians = []
    for columns in ("t, v", "count(*), sum(t), sum(v)"):
        found, turn, begin = [], 0, time.perf_counter()
        while time.perf_counter() - begin < seconds / 2:
            asked = time.perf_counter()
            query = f"SELECT {columns} FROM r WHERE s = ? AND t >= ? AND t < ?"
            rows = db.execute(query, (turn % SENSORS, end - DAY, end)).fetchall()
            found.append((time.perf_counter() - asked) * 1e6)
            if len(rows) not in (1, DAY // STEP):
                raise RuntimeError(f"a day of a sensor has {DAY // STEP} rows, not {len(rows)}")
            turn += 1
        medians.append(statistics.median(found))
    return medians[0], medians[1]


def send(database: VictoriaMetrics, end: int) -> None:
    """The readings of the sensors whose means are asked for."""
    begin = end - DAYS * DAY
    for sensor in range(MEANS):
        lines = [f"r,s={sensor} v={level(sensor, n) / 100} {(begin + n * STEP) * 10**9}" for n in range(DAYS * DAY // STEP)]
        database.ask("POST", database.path, "\n".join(lines).encode())
    database.ask("GET", "/internal/force_flush")


def week(database: VictoriaMetrics, seconds: float, end: int) -> float:
    """Microseconds of a whole answer of VictoriaMetrics, its cache of answers off: at each minute the mean of the one before."""
    asked = {"query": "avg_over_time(r_v[1m])", "start": end - DAYS * DAY + 60, "end": end, "step": "60s", "nocache": 1}
    found, begin = [], time.perf_counter()
    while not found or time.perf_counter() - begin < seconds:
        sent = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", database.port, timeout=60)
        connection.request("GET", "/api/v1/query_range?" + urlencode(asked))
        body = connection.getresponse().read()
        found.append((time.perf_counter() - sent) * 1e6)
        connection.close()
    # each point is a pair of a time and a value: [1764170000,"20.42"]
    if (points := body.count(b',"')) < MEANS * DAYS * DAY // 60:
        raise RuntimeError(f"VictoriaMetrics answered {points} points: {body[:300]!r}")
    return statistics.median(found)
