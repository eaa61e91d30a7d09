"""Says what CI refuses: format, clippy, contracts, licences and sources.

    lint.py                  checks
    lint.py --fix-contracts  formats the contracts
"""

import shutil
import sys
from pathlib import Path

import dashboard
from machine import SKIPPED, run, say


def buf(*arguments: str) -> None:
    if dashboard.install():
        run(dashboard.HOME / "node_modules/.bin/buf", *arguments)


def deny() -> None:
    if not (shutil.which("cargo-deny") or Path.home().joinpath(".cargo/bin/cargo-deny").exists()):
        say("installing cargo-deny")
        run("cargo", "install", "--locked", "--debug", "cargo-deny")  # builds in half the time
    run("cargo", "deny", "check", "licenses", "bans", "sources")


def main() -> None:
    if "--fix-contracts" in sys.argv:
        buf("format", "-w", "--path", "proto/sensormesh")
        return
    run("cargo", "fmt", "--all", "--check")
    buf("lint")
    buf("format", "--diff", "--exit-code", "--path", "proto/sensormesh")
    run("cargo", "clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings")
    deny()
    for line in SKIPPED:
        print(f"skipped: {line}")


if __name__ == "__main__":
    main()
