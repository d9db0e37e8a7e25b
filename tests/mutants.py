"""Hand-made mutants of the core: each breaks one rule, and the test beside it must notice.

`python -m tests.mutants` works in a temporary copy and says which live; `python -m tests.mutants WORD` takes those
whose name has the word in it. Not part of `make test`: it takes minutes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
_TIMEOUT_S = 120
_MODEL = "tests/property/test_model_exactly_once.py"


class Mutant(NamedTuple):
    """`old` becomes `new`, once, in `file`; `test` (pytest arguments) must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = (
    Mutant(
        "coverage says that a slice was read when it ended, not when its run began",
        "connector/core/windows.py",
        "coverage = coverage.add(piece.window, piece.at, steady=steady)",
        "coverage = coverage.add(piece.window, _second(now), steady=steady)",
        "tests/unit/test_windows.py -k counts_as_read",
    ),
    Mutant(
        "a run counts as done that was read before it began",
        "connector/core/windows.py",
        "not coverage.missing(run.window, since=run.started)",
        "not coverage.missing(run.window)",
        "tests/unit/test_windows.py",
    ),
    Mutant(
        "after an outage the hole is left",
        "connector/core/windows.py",
        "hole = state.coverage.unripe(Window(sweep_state.through, run.window.start), overlap)",
        "hole: list[Window] = []",
        "tests/unit/test_windows.py -k CatchingUp",
    ),
    Mutant(
        "windows begin before the horizon",
        "connector/core/windows.py",
        "floor = max(state.start, _second(now - rules.horizon))",
        "floor = state.start",
        "tests/unit/test_windows.py -k horizon",
    ),
    Mutant(
        "a clock that was set back keeps what it has read in the future",
        "connector/core/coverage.py",
        "at=read.at if read.at <= now else before",
        "at=read.at",
        "tests/unit/test_windows.py -k Clocks",
    ),
    Mutant(
        "an older reading of a piece takes the place of a newer one",
        "connector/core/coverage.py",
        "if start < end and read.at > at:",
        "if start < end and read.at < at:",
        "tests/property/test_coverage.py",
    ),
    Mutant(
        "complete is what was read at all",
        "connector/core/coverage.py",
        "at = max(at, min(read.end, read.at - overlap))",
        "at = max(at, read.end)",
        f"{_MODEL} -k whatever_happens",
    ),
    Mutant(
        "merged pieces are as new as the newest of them",
        "connector/core/coverage.py",
        "Read(last.start, read.end, min(last.at, read.at), last.steady)",
        "Read(last.start, read.end, max(last.at, read.at), last.steady)",
        "tests/property/test_coverage.py -k merging",
    ),
    Mutant(
        "ids that share 64 bits are one",
        "connector/core/dedup.py",
        'hit = lo[at] == entries["lo"][open_]',
        'hit = np.ones_like(lo[at] == entries["lo"][open_])',
        "tests/property/test_dedup.py",
    ),
    Mutant(
        "after a restart any revision of a row counts",
        "connector/core/dedup.py",
        'order = np.lexsort((entries["meta"], entries["lo"], entries["hi"]))',
        'order = np.lexsort((entries["lo"], entries["hi"]))',
        "tests/unit/test_seen.py",
    ),
    Mutant(
        "a row is forgotten an hour too early",
        "connector/core/dedup.py",
        "keep = run.hours >= before_hour",
        "keep = run.hours > before_hour",
        "tests/property/test_dedup.py",
    ),
    Mutant(
        "the batch does not look into what it has published itself",
        "connector/batch.py",
        "verdict = dedup.judge(chosen, (change.pending, account.remembered)",
        "verdict = dedup.judge(chosen, (account.remembered,)",
        "tests/unit/test_batch.py",
    ),
    Mutant(
        "what is remembered changes before the commit",
        "connector/batch.py",
        "change.pending.put(entries, hours)",
        "change.pending.put(entries[:0], hours[:0])",
        "tests/unit/test_batch.py",
    ),
    Mutant(
        "a row that does not fit is dead-lettered each time",
        "connector/batch.py",
        "self._pend(change, entry, dedup.hours_of([row.start_ms], observed_ms, self._horizon_hours))",
        "pass",
        "tests/unit/test_batch.py -k DeadLetters",
    ),
    Mutant(
        "remembered rows are not written",
        "connector/batch.py",
        "records += [self.internal(self._names.seen, shard, record) for record in written.records]",
        "pass",
        f"{_MODEL} -k clean_restart",
    ),
    Mutant(
        "a sealed record is written over",
        "connector/kafka/seen.py",
        'tail = _Tail(tail.number + 1, b"")\n',
        'tail = _Tail(tail.number, b"")\n',
        "tests/unit/test_seen.py",
    ),
    Mutant(
        "the empty date is null in its usual spelling only",
        "connector/core/rows.py",
        "if _ANCIENT in joined:",
        "if not joined:",
        "tests/unit/test_rows.py",
    ),
    Mutant(
        "members of beta count when only one reading knows them",
        "connector/core/rows.py",
        "both_know & beta",
        "beta",
        "tests/unit/test_rows.py -k Revised",
    ),
    Mutant(
        "instants are rounded",
        "connector/core/instants.py",
        'int(fraction[:3].ljust(3, "0"))',
        'round(float("0." + fraction) * 1000)',
        "tests/unit/test_rows.py -k cut",
    ),
    Mutant(
        "an unfit row is taken for the row with its id",
        "connector/core/rows.py",
        'blake2b(b"u" + raw, digest_size=12)',
        'blake2b(b"i" + raw.strip(b\'"\'), digest_size=12)',
        "tests/unit/test_rows.py -k Entries",
    ),
)


def run(mutant: Mutant, copy: Path) -> str:
    """What became of a mutant: caught, LIVES, or why it could not be made."""
    file = copy / mutant.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        return f"STALE: {mutant.file} has {text.count(mutant.old)} of {mutant.old!r}"
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.test.split()]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "caught (no end)"
    finally:
        file.write_text(text, encoding="utf-8")
    return {0: "LIVES", 1: "caught"}.get(done.returncode, f"BROKEN: pytest ended with {done.returncode}")


def main() -> int:
    """Runs the mutants; 1 when one lives."""
    words = sys.argv[1:]
    chosen = [mutant for mutant in MUTANTS if all(word in mutant.name for word in words)]
    worst = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        for name in ("connector", "schemas", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        for mutant in chosen:
            outcome = run(mutant, copy)
            worst |= not outcome.startswith("caught")
            sys.stdout.write(f"{outcome:10} {mutant.name}\n")
            sys.stdout.flush()
    return worst


if __name__ == "__main__":
    sys.exit(main())
