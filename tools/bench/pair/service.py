"""A service that stores a reading as a row; committed and on disk before the answer."""

import datetime
import os
import sqlite3

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
# In autocommit each INSERT is a transaction, and FULL syncs the log for each. On the event loop it is faster than in threads.
db = sqlite3.connect(os.environ["DATABASE"], isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = FULL")
db.execute("CREATE TABLE IF NOT EXISTS reading (sensor TEXT, time TEXT, value REAL, PRIMARY KEY (sensor, time)) WITHOUT ROWID")


class Reading(BaseModel):
    value: float
    time: datetime.datetime | None = None


@app.post("/v1/sensors/{sensor_id}/readings")
async def store(sensor_id: str, reading: Reading) -> dict:
    time = reading.time or datetime.datetime.now(datetime.UTC)
    db.execute("INSERT OR REPLACE INTO reading VALUES (?, ?, ?)", (sensor_id, time.isoformat(), reading.value))
    return {"verdict": "accepted"}
