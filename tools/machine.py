"""What the tools have in common: running commands, and installing what a fresh machine lacks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIPPED: list[str] = []
# For Python packages.
VENV = ROOT / "target/tools/venv"


def say(text: str) -> None:
    print(f"== {text}", flush=True)


def run(*command: str | Path, cwd: Path = ROOT, env: dict | None = None) -> None:
    """Runs a command; ends the program with its name where it fails."""
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=cwd, env={**os.environ, **(env or {})})
    if result.returncode != 0:
        sys.exit(f"failed ({result.returncode}): {' '.join(words)}")


def skip(what: str, why: str) -> None:
    SKIPPED.append(f"{what}: {why}")
    say(f"skipped: {what}: {why}")


def apt(what: str, *packages: str) -> bool:
    """Installs Debian packages where that is possible; says what is skipped where it is not."""
    if not shutil.which("apt-get"):
        skip(what, f"install {' '.join(packages)} by hand; there is no apt-get")
        return False
    if os.geteuid() != 0:
        skip(what, f"needs root to install {' '.join(packages)}")
        return False
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    if subprocess.run(install, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
        return True
    subprocess.run(["apt-get", "update", "-q"], env=env, stdout=subprocess.DEVNULL)
    if subprocess.run(install, env=env, stdout=subprocess.DEVNULL).returncode == 0:
        return True
    skip(what, f"{' '.join(packages)} could not be installed")
    return False


def pip(what: str, *packages: str) -> bool:
    """Installs Python packages in an environment of the tools' own; says what is skipped where that is not possible."""
    for command in ([sys.executable, "-m", "venv", VENV], [VENV / "bin/pip", "install", "-q", *packages]):
        result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if result.returncode != 0:
            skip(what, f"{', '.join(packages)} could not be installed: {result.stderr.strip()[-200:]}")
            return False
    return True


def postgres_programs() -> Path | None:
    """The folder with initdb and postgres, wherever Debian put it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    return Path(program).resolve().parent if program else None


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def node() -> bool:
    return bool(shutil.which("node") and shutil.which("npm"))
