"""Runs the tests of faults that take too long for `make test`, one at a time, so that none measures another.

    faults.py [--only F23] [--seed N]

Each has the number of its fault in its name; docs/RELIABILITY.md lists them. Chance is drawn from a seed that is printed;
`--seed` repeats a run.
"""

import argparse
import os
import re
import subprocess
import sys

from machine import ROOT, run, say

MESH = ["--workspace", "--test", "mesh"]
STORE = ["--workspace", "--test", "store"]
SYSTEM = ["--workspace", "--test", "system"]
# Tests that compare what others' calls take: of the program as it is released, because refusing is slow without optimisation.
TIMES = ["faults::latency::", "faults::neighbours::"]
# More than is taken for a minute, and a large export: faults that only a load finds. They are measures of the benchmark.
# F36 in short rounds: blocks are merged now and then, which falls on one side or the other.
MEASURED = {"F31": ["overload", "--overload", "60"], "F36": ["beside", "--rounds", "7", "--seconds", "0.8"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", type=str.upper, help="a fault's number: F23")
    parser.add_argument("--seed", help="the seed of an earlier run")
    options = parser.parse_args()
    env = {**os.environ, **({"CHANCE_SEED": options.seed} if options.seed else {})}
    released = {"TEST_PROGRAM": str(ROOT / "target/release/sensormesh")}
    if options.only:
        # wherever the test is, in a service's own ones too
        runs = [(options.only, ["--workspace", "--tests", "--no-fail-fast"], [f"{options.only.lower()}_"], released)]
    else:
        times = [part for name in TIMES for part in ("--skip", name)]
        runs = [
            ("the stack of calls", MESH, ["faults::"], {}),
            ("databases", STORE, ["faults::"], {}),
            ("the whole system", SYSTEM, ["faults::", *times], {}),
            ("what others notice", SYSTEM, TIMES, released),
        ]
    for _, target, _, _ in runs:
        run("cargo", "test", "--quiet", *target, "--no-run")
    run("cargo", "build", "--release", "--quiet", "--bins", "--examples")
    failed, ran = [], 0
    for name, target, filters, more in runs:
        say(name)
        command = ["cargo", "test", *target, "--", "--include-ignored", "--nocapture", "--test-threads", "1", *filters]
        tests, code = shown(command, {**env, **more})
        ran += tests
        if code:
            failed.append(name)
    for fault, (measure, *more) in MEASURED.items():
        if options.only in ("", fault):
            say(f"{fault}: {measure}")
            ran += 1
            command = [sys.executable, str(ROOT / "tools/bench.py"), "--no-build", "--only", measure]
            if subprocess.run([*command, *more], cwd=ROOT).returncode:
                failed.append(fault)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    if not ran:
        sys.exit(f"there is no test of {options.only}")


def shown(command: list[str], env: dict[str, str]) -> tuple[int, int]:
    """Runs this and shows what it writes; answers how many tests there were, and its code."""
    tests = 0
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE) as running:
        for line in running.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
            if counted := re.match(rb"running (\d+) tests?$", line.strip()):
                tests += int(counted[1])
    return tests, running.returncode


if __name__ == "__main__":
    main()
