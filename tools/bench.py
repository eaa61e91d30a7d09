"""Measures speed and size of the release build, each beside a limit or a peer in the same run.

    bench.py [--gate] [--only start,memory,live,ingest,grown,disk,rest,query,broker,fanout,hop,stack,overload,beside,dashboard,syncs,allocations,streams]
             [--rounds N] [--seconds S] [--cpu N] [--nice N] [--no-build]
             [--overload SECONDS]

Prints a table and writes target/bench/results.json. Times on one machine say nothing about another, so they are reported; what is
compared with a limit is a ratio to a peer measured in the same round, a size, or an amount of memory. `--cpu 1` puts
everything that is measured on one processor, peers and clients included. `--gate` takes only the counts that do not vary: bytes
of a reading, commits for 1,000 acknowledgements, allocations of a batch, memory of a stream.
"""

import argparse
import os
import subprocess
import sys
import time

from bench import beside, broker, disk, fanout, gate, grown, hop, ingest, live, overload, program, query, rest, stack, table
from machine import ROOT, SKIPPED, run, say

GATE = ["disk", "syncs", "allocations", "streams"]


def main() -> None:
    options = parse()
    measures = {
        "start": lambda: program.start(options.rounds),
        "memory": program.idle,
        "live": lambda: live.latency(5 * options.seconds),
        "ingest": lambda: ingest.ingest(options.rounds, options.seconds),
        "grown": grown.grown,
        "disk": disk.disk,
        "rest": lambda: rest.rest(options.rounds, options.seconds),
        "query": lambda: query.query(options.rounds, options.seconds),
        "broker": lambda: broker.broker(options.rounds, options.seconds),
        "fanout": lambda: fanout.fanout(options.rounds, options.seconds),
        "hop": lambda: hop.hop(options.rounds, options.seconds),
        "stack": lambda: stack.stack(options.rounds, options.seconds),
        "overload": lambda: overload.overload(options.overload),
        "beside": lambda: beside.beside(options.rounds, 5 * options.seconds),
        "dashboard": program.dashboard,
        "syncs": gate.syncs,
        "allocations": gate.allocations,
        "streams": fanout.streams,
    }
    # a part of the fan-out
    usual = [name for name in measures if name != "streams"]
    wanted = options.only.split(",") if options.only else GATE if options.gate else usual
    if unknown := [name for name in wanted if name not in measures]:
        sys.exit(f"there is no measure {unknown[0]!r}; there are {', '.join(measures)}")
    if not options.no_build:
        run("cargo", "build", "--release", "--bins", "--examples")
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    if options.nice:
        os.nice(options.nice)
    conditions = conditions_of(options)
    rows = []
    for name in wanted:
        say(name)
        found = measures[name]()
        table.show(found)
        rows += found
    say("all")
    table.show(rows)
    target = ROOT / "target/bench"
    table.write(rows, conditions, SKIPPED, target)
    for line in SKIPPED:
        print(f"skipped: {line}")
    print(f"written to {target.relative_to(ROOT)}/results.json")
    if missed := [row.measure for row in rows if row.failed]:
        sys.exit(f"missed: {'; '.join(missed)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of measures, separated by commas")
    parser.add_argument("--gate", action="store_true", help="only the counts that do not vary")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each comparison, at least 3")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each side runs in a round")
    how_long = "for how many seconds too much is offered; 300 in a full run"
    parser.add_argument("--overload", type=float, default=30.0, help=how_long)
    parser.add_argument("--cpu", type=int, help="the processor that everything measured runs on")
    parser.add_argument("--nice", type=int, default=0, help="-20 to 19; below 0 needs root")
    parser.add_argument("--no-build", action="store_true", help="measures the release build as it is")
    options = parser.parse_args()
    options.rounds = max(options.rounds, 3)
    return options


def conditions_of(options: argparse.Namespace) -> dict:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit.stdout.strip(),
        "processor": model,
        "processors": sorted(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "rounds": options.rounds,
        "seconds": options.seconds,
        "nice": options.nice,
    }


if __name__ == "__main__":
    main()
