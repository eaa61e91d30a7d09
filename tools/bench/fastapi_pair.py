"""The pair that a POST is compared with: a gateway and a service in FastAPI, with SQLite behind them, as one writes them.

    uvicorn fastapi_pair:gateway    checks the token, hands the call on to SERVICE_URL
    uvicorn fastapi_pair:service    checks the body, stores the reading in DATABASE, synced before the answer
"""

import contextlib
import hmac
import os
import sqlite3
import time
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

TOKEN = os.environ.get("TOKEN", "")


class Reading(BaseModel):
    """What a sensor sends."""

    value: float
    time: str | None = None


@contextlib.asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=os.environ["SERVICE_URL"], limits=limits) as client:
        app.state.client = client
        yield


@contextlib.asynccontextmanager
async def opened(app: FastAPI) -> AsyncIterator[None]:
    database = sqlite3.connect(os.environ["DATABASE"], isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute(
        "CREATE TABLE IF NOT EXISTS reading (sensor TEXT, time INTEGER, value REAL, PRIMARY KEY (sensor, time))"
    )
    app.state.database = database
    yield
    database.close()


gateway = FastAPI(lifespan=connected)
service = FastAPI(lifespan=opened)


@gateway.post("/v1/sensors/{sensor}/readings")
async def forward(sensor: str, request: Request) -> Response:
    told = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(told, TOKEN):
        raise HTTPException(401)
    body, headers = await request.body(), {"content-type": "application/json"}
    answer = await request.app.state.client.post(f"/readings/{sensor}", content=body, headers=headers)
    return Response(answer.content, answer.status_code, media_type="application/json")


@service.post("/readings/{sensor}")
async def store(sensor: str, reading: Reading) -> dict:
    now = time.time_ns()
    service.state.database.execute("INSERT OR REPLACE INTO reading VALUES (?, ?, ?)", (sensor, now, reading.value))
    return {"accepted": 1}
