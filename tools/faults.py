"""Runs the tests of faults that take too long for `make test`, one at a time, so that none measures another.

    faults.py [--only F23] [--seed N]

Each has the number of its fault in its name; docs/RELIABILITY.md lists them. Chance is drawn from a seed that is printed;
`--seed` repeats a run.
"""

import argparse
import os
import subprocess
import sys

from machine import ROOT, run, say

WHERE = [
    ("the stack of calls", ["-p", "sensormesh-mesh", "--test", "mesh"]),
    ("the whole system", ["-p", "sensormesh", "--test", "system"]),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a fault's number: F23")
    parser.add_argument("--seed", help="the seed of an earlier run")
    options = parser.parse_args()
    env = {**os.environ, **({"CHANCE_SEED": options.seed} if options.seed else {})}
    wanted = f"::{options.only.lower()}_" if options.only else "faults::"
    for _, target in WHERE:
        run("cargo", "test", "--quiet", *target, "--no-run")
    failed = []
    for name, target in WHERE:
        say(name)
        command = ["cargo", "test", *target, "--", "--include-ignored", "--nocapture", "--test-threads", "1", wanted]
        if subprocess.run(command, cwd=ROOT, env=env).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
