"""Kills the system, and cuts its power, at random moments under load, many times over; needs a C compiler, `cc`.

    crash.py [--points N] [--only kill,power,early]

`kill` ends it with kill -9. `power` ends it so and then undoes what it had written and not synced: all of that, all but the
first writes, or any of its sectors of 512 bytes. `early` proves that the rig can fail: the same power cuts under a system whose
syncs of the log of readings do nothing, so that it acknowledges too early; the run is good when readings are found lost.
"""

import argparse
import os
import subprocess
import sys

from machine import ROOT, run, say

KINDS = {
    "kill": "crash::killed_at_random",
    "power": "crash::without_power_at_random",
    "early": "crash::an_acknowledgement_before_the_sync",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=200, help="how often `kill` and `power` strike")
    parser.add_argument("--only", default=",".join(KINDS), help="names, separated by commas")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := [name for name in wanted if name not in KINDS]:
        sys.exit(f"there is no {unknown[0]!r}; there are {', '.join(KINDS)}")
    test = ["cargo", "test", "--quiet", "--workspace", "--test", "system"]
    run(*test, "--no-run")
    failed = []
    for name in wanted:
        say(name)
        env = {**os.environ, "CRASH_POINTS": str(options.points)}
        if subprocess.run([*test, "--", "--nocapture", KINDS[name]], cwd=ROOT, env=env).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
