"""A gateway as they are usually written: one client, shared, that passes each request on."""

import contextlib
import os

import httpx
from fastapi import FastAPI, Request, Response

LIMITS = httpx.Limits(max_connections=128, max_keepalive_connections=128)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI):
    async with httpx.AsyncClient(base_url=os.environ["UPSTREAM"], limits=LIMITS, trust_env=False) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.api_route("/{path:path}", methods=["GET", "POST"])
async def forward(path: str, request: Request) -> Response:
    headers = {"content-type": "application/json"}
    answer = await app.state.client.request(request.method, f"/{path}", content=await request.body(), headers=headers)
    return Response(answer.content, answer.status_code, media_type="application/json")
