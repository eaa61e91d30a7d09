"""Seeds seven bugs that matter, one at a time, into a copy of the sources; each must be caught by a test that names it.

    mutants.py [--only cursor]

It needs some minutes for the first build, in target/mutants, and one or two for each bug.
"""

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

from machine import ROOT, run, say

PLACE = ROOT / "target" / "mutants"
TREE = PLACE / "tree"


@dataclass
class Mutant:
    name: str
    file: str
    before: str
    after: str
    program: str
    test: str


MUTANTS = [
    Mutant(
        "acknowledge-before-commit",
        "services/telemetry/src/writer.rs",
        "        tx.commit().await?;\n        state.apply(entries, mark);\n",
        "        state.apply(entries, mark);\n"
        "        let late = std::time::Duration::from_millis(200);\n"
        "        tokio::spawn(async move { tokio::time::sleep(late).await; tx.commit().await });\n",
        "system",
        "crash::killed_at_random",
    ),
    Mutant(
        "no-dedup",
        "services/telemetry/src/dedup.rs",
        "Upsert::Same => Some(Verdict::Duplicate)",
        "Upsert::Same => None",
        "telemetry",
        "sqlite::a_reading_sent_again_is_a_duplicate_or_a_revision",
    ),
    Mutant(
        "cursor-off-by-one",
        "services/telemetry/src/hub.rs",
        "|entry| entry.seq <= after)",
        "|entry| entry.seq < after)",
        "telemetry",
        "sqlite::a_watcher_that_resumes_sees_everything_once",
    ),
    Mutant(
        "unbounded-buffer",
        "services/telemetry/src/api/watch.rs",
        "mpsc::channel(1)",
        "mpsc::channel(1 << 20)",
        "telemetry",
        "sqlite::a_reader_that_takes_nothing_is_ended_with_its_cursor",
    ),
    Mutant(
        "missing-tenant-predicate",
        "services/devices/src/db/sensor.rs",
        "{SELECT} WHERE tenant = $1 AND sensor_id = $2",
        "{SELECT} WHERE $1 = $1 AND sensor_id = $2",
        "devices",
        "sqlite::another_tenant_sees_nothing_and_may_use_the_same_ids",
    ),
    Mutant(
        "skipped-signature-check",
        "crates/mesh/src/token/verifier.rs",
        "jsonwebtoken::decode::<Claims>(token, key, &validation)",
        "jsonwebtoken::dangerous::insecure_decode::<Claims>(token)",
        "mesh",
        "a_token_that_is_not_exactly_ours_is_refused",
    ),
    Mutant(
        "exit-without-drain",
        "crates/mesh/src/server/drain.rs",
        "        let _ = tokio::time::timeout(self.patience, self.calls.none()).await;\n",
        "        self.cut.request();\n",
        "mesh",
        "a_stop_lets_running_calls_finish",
    ),
]


def copy() -> None:
    """The tracked files as they stand; what has not changed keeps its time, so that it is not built anew."""
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    names = {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()}
    for name in names:
        source, target = ROOT / name, TREE / name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    for path in [path for path in TREE.rglob("*") if path.is_file() and str(path.relative_to(TREE)) not in names]:
        path.unlink()


def test(mutant: Mutant) -> str:
    """Runs the test in the copy; answers what it said."""
    env = {**os.environ, "CARGO_TARGET_DIR": str(PLACE / "target"), "CRASH_POINTS": "10"}
    command = ["cargo", "test", "--quiet", "--workspace", "--test", mutant.program, "--", "--include-ignored"]
    command.append(mutant.test)
    said = subprocess.run(command, cwd=TREE, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return said.stdout


def is_caught(mutant: Mutant) -> bool:
    """Whether the test passes without the bug and fails with it."""
    file = TREE / mutant.file
    sound = file.read_text()
    if sound.count(mutant.before) != 1:
        say(f"{mutant.name}: {mutant.file} has changed; say here where the bug goes now")
        return False
    try:
        file.write_text(sound.replace(mutant.before, mutant.after))
        said = test(mutant)
    finally:
        file.write_text(sound)
    failed = "test result: FAILED" in said
    if not failed:
        print(said[-2000:])
    say(f"{mutant.name}: {'caught by' if failed else 'NOT caught by'} {mutant.test}")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a bug's name")
    options = parser.parse_args()
    wanted = [mutant for mutant in MUTANTS if options.only in mutant.name]
    if not wanted:
        sys.exit(f"there is no {options.only!r}; there are {', '.join(mutant.name for mutant in MUTANTS)}")
    copy()
    run("cargo", "test", "--quiet", "--workspace", "--no-run", cwd=TREE, env={"CARGO_TARGET_DIR": str(PLACE / "target")})
    for mutant in wanted:
        said = test(mutant)
        if "test result: ok. 1 passed" not in said:
            print(said[-2000:])
            sys.exit(f"without the bug {mutant.test} must pass, and be one test")
    missed = [mutant.name for mutant in wanted if not is_caught(mutant)]
    print(f"{len(wanted) - len(missed)} of {len(wanted)} caught")
    if missed:
        sys.exit(f"not caught: {', '.join(missed)}")


if __name__ == "__main__":
    main()
