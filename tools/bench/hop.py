"""What the edge adds to a call, beside Envoy doing the same: JSON to gRPC or gRPC as it is, token, rate limit, log, mutual TLS; and
beside nginx, which only passes gRPC on, over mutual TLS."""

import contextlib
import statistics

from . import peers
from .system import System, cpu_seconds, memory
from .table import Row, spread

CONCURRENCY = (1, 32)
# Limits of a ratio to Envoy's: of what is added at c=1, of requests, of processor time.
TRANSLATES = {"added_us": {"must": 0.7, "aim": 0.45}, "per_second": {"must": 2, "aim": 3, "sense": "least"}}
PASSES = {
    "added_us": {"must": 0.8, "aim": 0.5},
    "per_second": {"must": 1.3, "aim": 1.8, "sense": "least"},
    "cpu_us": {"must": 0.6, "aim": 0.4},
}
KINDS = {
    # what wrk sends, or the load program as a user; the load program's same call straight to the service; how the table names it;
    # its limits, of which a call that waits for the disk has none, as it says more about the disk
    "again": ("again", "POST of one reading that is there already, no fsync", TRANSLATES),
    "latest": ("latest", "GET of one latest reading", TRANSLATES),
    "post": ("unary", "POST of one reading, fsync", {}),
    "grpc": ("latest", "gRPC, one latest reading", PASSES),
}


def hop(rounds: int, seconds: float) -> list[Row]:
    if not peers.wrk():
        return []
    program = peers.envoy_program()
    rows = []
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(System("--split", "--no-host-sensors"))
        system.start()
        token = system.token()
        hops = {"edge": (system.port, system.service_pid("edge"))}
        if program:
            envoy = stack.enter_context(peers.Envoy(program, system))
            hops["envoy"] = (envoy.port, envoy.process.pid)
        nginx = stack.enter_context(peers.Nginx(system)) if peers.Nginx.found() else None
        system.load("unary", "telemetry", 0.5, 32)
        for port, _ in hops.values():
            for kind in KINDS:
                ask(system, port, token, kind, 32, 0.5)
        for kind, (direct, name, limits) in KINDS.items():
            for concurrency in CONCURRENCY:
                found = [measure(system, hops, nginx, direct, kind, concurrency, seconds) for _ in range(rounds)]
                rows += compare(f"{name}, c={concurrency}", concurrency, limits, found)
        held = {who: memory(pid) for who, (_, pid) in hops.items()}
    text = {who: f"{found['share']:.1f} MiB, {found['rss']:.1f} resident" for who, found in held.items()}
    ratios = [held["edge"]["share"] / held["envoy"]["share"]] if program else []
    rows.append(Row("memory of the edge after that", text["edge"], text.get("envoy", ""), ratios, 1 / 4, 1 / 6, detail=held))
    return rows


def ask(system: System, port: int, token: str, kind: str, concurrency: int, seconds: float) -> dict:
    if kind != "grpc":
        return peers.ask(port, token, kind, concurrency, seconds)
    answer = system.load_as(token, port, KINDS[kind][0], seconds, concurrency)
    return {**answer, "requests": answer["per_second"] * seconds, "seconds": seconds}


def measure(
    system: System, hops: dict, nginx: peers.Nginx | None, direct: str, kind: str, concurrency: int, seconds: float
) -> dict:
    """One round: straight to the service, then through each hop. A token lives longer than all rounds of one kind."""
    token = system.token()
    round = {"direct": system.load(direct, "telemetry", seconds, concurrency)}
    for who, (port, pid) in hops.items():
        before = cpu_seconds(pid)
        answer = ask(system, port, token, kind, concurrency, seconds)
        answer["cpu_us"] = (cpu_seconds(pid) - before) * 1e6 / answer["requests"]
        answer["per_second"] = answer["requests"] / answer["seconds"]
        answer["added_us"] = answer["p50_us"] - round["direct"]["p50_us"]
        round[who] = answer
    if nginx:
        # the load program's calls, as they go straight to the service
        answer = system.load_at(f"127.0.0.1:{nginx.port}", direct, seconds, concurrency)
        answer["added_us"] = answer["p50_us"] - round["direct"]["p50_us"]
        round["nginx"] = answer
    return round


def compare(name: str, concurrency: int, limits: dict[str, dict], found: list[dict]) -> list[Row]:
    def of(who: str, what: str) -> list[float]:
        return [round[who][what] for round in found if who in round]

    def ratios(what: str) -> list[float]:
        return [r["edge"][what] / r["envoy"][what] for r in found if r.get("envoy", {}).get(what, 0) > 0]

    def text(who: str, what: str, unit: str) -> str:
        return f"{spread(of(who, what), '{:.0f}')} {unit}" if of(who, what) else ""

    def row(measure: str, what: str, unit: str) -> Row:
        of_it = limits.get(what, {}) if (concurrency == 1) == (what == "added_us") else {}
        return Row(f"{name}: {measure}", text("edge", what, unit), text("envoy", what, unit), ratios(what), **of_it)

    rows = [row("added p50", "added_us", "µs") if concurrency == 1 else row("requests", "per_second", "/s")]
    rows.append(row("p99", "p99_us", "µs"))
    rows.append(row("CPU of the hop", "cpu_us", "µs"))
    if concurrency > 1 and of("nginx", "per_second"):
        more = [r["edge"]["per_second"] / r["nginx"]["per_second"] for r in found if r["nginx"]["per_second"] > 0]
        rows.append(Row(f"{name}: requests, beside nginx passing gRPC on", text("edge", "per_second", "/s"),
                        text("nginx", "per_second", "/s"), more))
    if concurrency == 1 and of("nginx", "added_us"):
        row = Row(f"{name}: added p50, beside nginx passing gRPC on", text("edge", "added_us", "µs"))
        row.peer = text("nginx", "added_us", "µs")
        row.ratios = [r["edge"]["added_us"] / r["nginx"]["added_us"] for r in found if r["nginx"]["added_us"] > 0]
        rows.append(row)
    direct = [round["direct"] for round in found]
    middle = statistics.median(d["p50_us"] for d in direct)
    rate = statistics.median(d["per_second"] for d in direct)
    rows.append(Row(f"{name}: straight to the service", f"p50 {middle:.0f} µs, {rate:.0f} /s"))
    rows[0].detail = {"rounds": found}
    return rows
