"""Installs what the tests need and runs them all. What cannot be installed is skipped by name."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import dashboard
from machine import ROOT, SKIPPED, apt, chromium, node, pip, postgres_programs, run, say, skip


@contextmanager
def postgres():
    """A PostgreSQL server of the tests' own on a free port; yields its URL, or None where there is none."""
    if postgres_programs() is None:
        apt("tests on PostgreSQL", "postgresql")
    programs = postgres_programs()
    if programs is None:
        yield None
        return
    home = Path(tempfile.mkdtemp(prefix="sensormesh-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        owner = next((u for u in ("postgres", "nobody") if user_exists(u)), None)
        if owner is None or not shutil.which("runuser"):
            skip("tests on PostgreSQL", "needs a user other than root to run the server")
            yield None
            return
        shutil.chown(home, owner)
        as_user = ["runuser", "-u", owner, "--"]
    data, port = home / "data", free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": home}
    initdb = [*as_user, programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
    subprocess.run(initdb, check=True, **quiet)
    # nothing of it is to outlive a power cut; tests that cut something have a server of their own
    settings = ["listen_addresses=127.0.0.1", f"unix_socket_directories={home}", "max_connections=300", "fsync=off"]
    options = [word for setting in settings for word in ("-c", setting)]
    command = [*as_user, programs / "postgres", "-D", data, "-p", str(port), *options]
    server = subprocess.Popen(command, **quiet)
    try:
        for _ in range(200):
            ready = subprocess.run([programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)])
            if ready.returncode == 0:
                break
            time.sleep(0.05)
        yield f"postgres://postgres@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(timeout=30)
        # hundreds of databases: minutes, which nobody has to wait for
        subprocess.Popen(["rm", "-rf", home], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
        return True
    except KeyError:
        return False


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main() -> None:
    say("dashboard")
    dashboard.build()
    if not (shutil.which("ip") and shutil.which("curl")):
        apt("tests from a second host", "iproute2", "curl")
    pip("tests with mail", "aiosmtpd")
    with postgres() as url:
        env = {"SENSORMESH_TEST_POSTGRES_URL": url} if url else {}
        say("tests in Rust")
        run("cargo", "test", "--workspace", "--no-fail-fast", "--quiet", env=env)
    say("tests in the browser")
    if not node():
        skip("browser tests", "needs Node.js and npm")
    elif chromium() or apt("browser tests", "chromium"):
        # with the program that the tests in Rust have built
        dashboard.install()
        run("npm", "test", "--silent", cwd=dashboard.HOME)
    for line in SKIPPED:
        print(f"skipped: {line}")
    say("done")


if __name__ == "__main__":
    main()
