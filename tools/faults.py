"""Runs the tests of faults that take too long for `make test`, one at a time, so that none measures another.

    faults.py [--only F23] [--seed N]

Each has the number of its fault in its name; docs/RELIABILITY.md lists them. Chance is drawn from a seed that is printed;
`--seed` repeats a run. `TEST_PROGRAM` names a program that is built with optimisation already.
"""

import argparse
import os
import subprocess
import sys

from machine import ROOT, run, say

MESH = ["--workspace", "--test", "mesh"]
SYSTEM = ["--workspace", "--test", "system"]
# Tests that compare what others' calls take: of the program as it is released, because refusing is slow without optimisation.
TIMES = ["faults::latency::", "faults::neighbours::"]
PROGRAM = "TEST_PROGRAM"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a fault's number: F23")
    parser.add_argument("--seed", help="the seed of an earlier run")
    options = parser.parse_args()
    env = {**os.environ, **({"CHANCE_SEED": options.seed} if options.seed else {})}
    released = env.pop(PROGRAM, None)
    program = os.path.abspath(released) if released else str(ROOT / "target/release/sensormesh")
    fault = f"{options.only.lower()}_" if options.only else ""
    everything = f"::{fault}" if fault else "faults::"
    runs = [
        ("the stack of calls", MESH, [everything], {}),
        ("the whole system", SYSTEM, [everything, *(part for name in TIMES for part in ("--skip", name))], {}),
        ("what others notice", SYSTEM, [name + fault for name in TIMES], {PROGRAM: program}),
    ]
    run("cargo", "test", "--quiet", *MESH, "--no-run")
    run("cargo", "test", "--quiet", *SYSTEM, "--no-run")
    if not released:
        run("cargo", "build", "--release", "--quiet", "--bin", "sensormesh")
    failed = []
    for name, target, filters, more in runs:
        say(name)
        command = ["cargo", "test", *target, "--", "--include-ignored", "--nocapture", "--test-threads", "1", *filters]
        if subprocess.run(command, cwd=ROOT, env={**env, **more}).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
