"""Says what CI refuses: format, clippy, contracts, licences and sources.

    lint.py                  checks
    lint.py --fix-contracts  formats the contracts
"""

import shutil
import sys
from pathlib import Path

from machine import ROOT, SKIPPED, node, run, say, skip

BUF = "@bufbuild/buf@1.75.0"


def buf(*arguments: str) -> None:
    if not node():
        skip("buf", "needs Node.js and npm")
        return
    home = ROOT / "target/tools/buf"
    program = home / "node_modules/.bin/buf"
    if not program.exists():
        home.mkdir(parents=True, exist_ok=True)
        run("npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", home, BUF)
    run(program, *arguments)


def deny() -> None:
    if not (shutil.which("cargo-deny") or Path.home().joinpath(".cargo/bin/cargo-deny").exists()):
        say("installing cargo-deny")
        run("cargo", "install", "--locked", "cargo-deny")
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
