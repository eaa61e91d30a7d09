"""Builds the dashboard and the npm package of the contracts, where Node.js is there.

    dashboard.py build    services/edge/dashboard/dist, embedded by the next build of the program
    dashboard.py client   services/edge/dashboard/client, an installable package
    dashboard.py test     the browser's journeys, against the program that is built
"""

import sys

from machine import ROOT, node, run, say, skip

HOME = ROOT / "services/edge/dashboard"


def install() -> bool:
    if not node():
        skip("dashboard", "needs Node.js and npm")
        return False
    stamp = HOME / "node_modules/.package-lock.json"
    lock = HOME / "package-lock.json"
    if not stamp.exists() or stamp.stat().st_mtime < lock.stat().st_mtime:
        # Not `npm ci`: it fails where one optional package of another platform cannot be found.
        run("npm", "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", cwd=HOME)
        stamp.touch()
    return True


def newest() -> float:
    """When the last of the sources changed: the contracts, and the dashboard but for what is made."""
    made = {HOME / name for name in ("dist", "client", "node_modules", "src/gen", "client-src/gen", "tests")}
    files = [file for folder in (ROOT / "proto", HOME) for file in folder.rglob("*") if not made & {*file.parents}]
    return max(file.stat().st_mtime for file in files if file.is_file())


def build() -> None:
    index = HOME / "dist/index.html"
    if index.exists() and index.stat().st_mtime > newest():
        say("dashboard: up to date")
    elif install():
        run("npm", "run", "--silent", "build", cwd=HOME)


def main() -> None:
    what = sys.argv[1] if len(sys.argv) > 1 else "build"
    if what == "build":
        build()
    elif install():
        run("npm", "run", "--silent", what, cwd=HOME)


if __name__ == "__main__":
    main()
