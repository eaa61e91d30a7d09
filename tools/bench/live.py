"""How long after its acknowledgement a reading is seen by somebody who watches."""

import http.client
import json
import statistics
import threading
import time

from .system import System
from .table import Row

RATE = 50
SENSOR = "bench.live"


def latency(seconds: float) -> list[Row]:
    with System("--no-host-sensors") as system:
        system.start()
        token = system.token()
        system.call("POST", f"/v1/sensors/{SENSOR}/readings", {"value": -1}, token)
        system.call("POST", "/v1/places", {"placeId": "bench", "kind": "PLACE_KIND_ROOM", "name": "Bench"}, token)
        system.call("POST", "/v1/placements", {"sensorId": SENSOR, "roomId": "bench", "metric": "live"}, token)
        watched = {
            "stream of readings (SSE)": Reader(system, f"/v1/readings:watch?sensor_ids={SENSOR}", token),
            "stream of rooms (SSE)": Reader(system, "/v1/rooms:watch?room_ids=bench", token),
        }
        for reader in watched.values():
            reader.ready.wait(timeout=30)
        sent, acknowledged = post(system, token, int(seconds * RATE))
        return [row(f"reading to {name}", reader, sent, acknowledged) for name, reader in watched.items()]


def post(system: System, token: str, count: int) -> tuple[list[float], list[float]]:
    """Sends one reading after the other at a steady pace; the times of sending and of acknowledgement."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=30)
    sent, acknowledged = [], []
    begin = time.perf_counter()
    for number in range(count):
        time.sleep(max(0.0, begin + number / RATE - time.perf_counter()))
        sent.append(time.perf_counter())
        connection.request("POST", f"/v1/sensors/{SENSOR}/readings", json.dumps({"value": number}), headers)
        response = connection.getresponse()
        acknowledged.append(time.perf_counter())
        if response.status != 200:
            raise RuntimeError(f"a reading was refused: {response.status} {response.read()!r}")
        response.read()
    return sent, acknowledged


class Reader(threading.Thread):
    """Reads a stream and notes when each value came: the values are numbered."""

    def __init__(self, system: System, path: str, token: str) -> None:
        super().__init__(daemon=True)
        self.seen: dict[int, float] = {}
        self.ready = threading.Event()
        self.connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=30)
        headers = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
        self.connection.request("GET", path, headers=headers)
        self.start()

    def run(self) -> None:
        response = self.connection.getresponse()
        try:
            while line := response.readline():
                now = time.perf_counter()
                if line.startswith(b"data:"):
                    for value in values(json.loads(line[5:])):
                        self.seen.setdefault(int(value), now)
                    self.ready.set()
        except OSError:
            # the system has stopped
            return


def values(message: object) -> list[float]:
    """Every `value` anywhere in a message."""
    if isinstance(message, list):
        return [v for item in message for v in values(item)]
    if isinstance(message, dict):
        own = [message["value"]] if isinstance(message.get("value"), (int, float)) else []
        return own + [v for item in message.values() for v in values(item)]
    return []


def row(name: str, reader: Reader, sent: list[float], acknowledged: list[float]) -> Row:
    deadline = time.perf_counter() + 5
    while len(sent) - 1 not in reader.seen and time.perf_counter() < deadline:
        time.sleep(0.05)
    seen = [number for number in range(len(sent)) if number in reader.seen]
    if len(seen) < len(sent):
        raise RuntimeError(f"{name}: {len(sent) - len(seen)} of {len(sent)} readings were not seen")
    after_ack = [max(0.0, reader.seen[n] - acknowledged[n]) * 1000 for n in seen]
    after_sent = [(reader.seen[n] - sent[n]) * 1000 for n in seen]
    (ack50, ack99), (sent50, sent99) = quantiles(after_ack), quantiles(after_sent)
    ours = f"{ack50:.2f} / {ack99:.2f} ms p50/p99 after the ack, {sent50:.2f} / {sent99:.2f} after sending"
    detail = {"ack_p50_ms": ack50, "ack_p99_ms": ack99, "sent_p50_ms": sent50, "sent_p99_ms": sent99}
    return Row(name, ours, gated=False, detail={**detail, "readings": len(seen)})


def quantiles(values: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(values, n=100)
    return cuts[49], cuts[98]
