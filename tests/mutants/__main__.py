"""`python -m tests.mutants [WORD…]`: tests the mutants whose name or file contains all words, and prints the survivors.

For mutants that only a broker catches it also shows that the fast tests do not notice them. The fast tests run over as
many of these mutants at once as do not change the same lines.
"""

import os
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.brokers import Cluster
from tests.mutants import MUTANTS
from tests.mutants.mutant import FAST, ROOT, Mutant, stale

_TIMEOUT_S = 420
_AT_ONCE = max(2, (os.cpu_count() or 2) // 2)
_OPTIONS = ("-p", "no:cacheprovider", "--hypothesis-profile=mutants")
_LEFT_OUT = (".git", ".venv", "out", "dist", "build", "__pycache__", ".*_cache", ".hypothesis")


def copy_to(folder: Path) -> None:
    """Copy all that tests read, without what they leave behind."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True)


def tested(copy: Path, arguments: str, bootstrap: str) -> int | None:
    """Return the exit code of pytest, or None if it timed out."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", *_OPTIONS, *shlex.split(arguments)]
    more = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "KAFKA_BOOTSTRAP_SERVERS": bootstrap}
    environment = {**os.environ, **more}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None
    return done.returncode


def outcome(mutant: Mutant, copy: Path, bootstrap: str) -> str:
    """Return the result of a mutant: caught, or what is wrong with the mutant or its test."""
    if why := stale(mutant, copy):
        return f"STALE: {why}"
    file = copy / mutant.file
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code = tested(copy, mutant.test, bootstrap)
        if code == 0:
            return "LIVES"
        if code not in (1, None):
            return f"BROKEN: pytest ended with {code}"
    finally:
        file.write_text(text, encoding="utf-8")
    return "caught on a broker" if mutant.broker else "caught"


def noticed(mutants: Sequence[Mutant], copy: Path) -> list[str]:
    """Return the names of the mutants that the fast tests notice. Mutants that fit together are tested at once."""
    left, found = list(mutants), []
    while left:
        texts: dict[Path, str] = {}
        together, later = [], []
        for mutant in left:
            file = copy / mutant.file
            text = file.read_text(encoding="utf-8")
            if text.count(mutant.old) == 1:
                texts.setdefault(file, text)
                file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
                together.append(mutant)
            else:
                later.append(mutant)
        is_noticed = bool(together) and tested(copy, FAST, "") != 0
        for file, text in texts.items():
            file.write_text(text, encoding="utf-8")
        if not together:
            break  # these mutants are stale, which tests/unit/test_mutants.py reports
        if is_noticed and len(together) == 1:
            found.append(together[0].name)
        elif is_noticed:
            half = len(together) // 2
            found += noticed(together[:half], copy) + noticed(together[half:], copy)
        left = later
    return found


def main() -> int:
    """Test the mutants; return 1 when one survives."""
    words = sys.argv[1:]
    chosen = [mutant for mutant in MUTANTS if all(word in f"{mutant.name} {mutant.file}" for word in words)]
    of_broker = [mutant for mutant in chosen if mutant.broker]
    copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
    caught = 0
    with ExitStack() as stack:
        copy = Path()
        for _ in range(_AT_ONCE):
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-")))
            copy_to(copy)
            copies.put(copy)
        bootstrap = ""
        if of_broker:
            bootstrap = stack.enter_context(Cluster()).bootstrap

        def make(mutant: Mutant) -> tuple[str, float]:
            copy = copies.get()
            started = time.monotonic()
            try:
                return outcome(mutant, copy, bootstrap), time.monotonic() - started
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for mutant, (became, seconds) in zip(chosen, pool.map(make, chosen), strict=True):
                caught += became.startswith("caught")
                sys.stdout.write(f"{became:19} {seconds:5.0f} s  {mutant.name}  [{mutant.test}]\n")
                sys.stdout.flush()
        early = noticed(of_broker, copy)
    sys.stdout.write(f"{caught} of {len(chosen)} caught, {len(of_broker)} of them on a real broker\n")
    if early:
        sys.stdout.write(f"the fast tests notice some of these too: {'; '.join(early)}\n")
    elif of_broker:
        sys.stdout.write(f"the fast tests notice none of the {len(of_broker)}\n")
    return caught != len(chosen) or bool(early)


if __name__ == "__main__":
    sys.exit(main())
