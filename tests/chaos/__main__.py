"""`python -m tests.chaos [--seeds 1-10] [--minutes 3]`: plays seeds, prints a table, and exits with 1 if one fails."""

import argparse
import logging
import shutil
import sys
import traceback
from pathlib import Path

from tests.chaos.acts import within
from tests.chaos.stage import Outcome, Stage

OUT = Path(__file__).parent.parent.parent / "out"
CALLS_PER_DAY = 1_500_000


def seeds(text: str) -> list[int]:
    """Return the numbers in "7", "1,4" or "1-10"."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def play(seed: int, minutes: float) -> Outcome | None:
    """Play one seed; return None if it did not finish. Print all that is needed to reproduce a failure."""
    folder = OUT / f"chaos-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stage = Stage(seed, folder, CALLS_PER_DAY, minutes)
    try:
        with stage:
            stage.until_rows_flow()
            stage.play(within(seed, 60 * minutes))
            outcome = stage.finish()
            if outcome.problems:
                stage.keep_logs()
    except Exception:  # noqa: BLE001 - after any error, the acts are printed and the next seed is played
        sys.stderr.write(f"{traceback.format_exc()}{stage.report()}\n{repeat_command(seed, minutes)}\n")
        return None
    if outcome.problems:
        sys.stderr.write("\n".join([*outcome.problems, stage.report(), repeat_command(seed, minutes), ""]))
    else:
        shutil.rmtree(folder)
    return outcome


def repeat_command(seed: int, minutes: float) -> str:
    """Return the command that plays the same faults again."""
    return f"to repeat the run: make chaos SEED={seed} MINUTES={minutes:g}"


def main() -> int:
    """Play the seeds; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", type=seeds, default=seeds("1-10"), help="such as 7 or 1-10 (default 1-10)")
    parser.add_argument("--minutes", type=float, default=3.0, help="of acts, a seed (default 3)")
    options = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # workers that were killed during a response
    line = "{:>6} {:>6} {:>8} {:>8} {:>8} {:>9} {:>8} {:>8}  {}\n"
    titles = ("seed", "acts", "seconds", "strikes", "rows", "revisions", "missing", "doubled", "")
    sys.stdout.write(line.format(*titles))
    sys.stdout.flush()
    failed = rows = 0
    seconds = 0.0
    for seed in options.seeds:
        outcome = play(seed, options.minutes)
        failed += outcome is None or bool(outcome.problems)
        if outcome is None:
            sys.stdout.write(f"{seed:>6} came to no end\n")
        else:
            tally = outcome.tally
            rows += tally.rows
            seconds += outcome.seconds
            numbers = (
                outcome.acts,
                round(outcome.seconds),
                outcome.strikes,
                tally.rows,
                tally.revisions,
                tally.missing,
                tally.doubled,
            )
            sys.stdout.write(line.format(seed, *numbers, "FAILED" if outcome.problems else "exact"))
        sys.stdout.flush()
    sys.stdout.write(f"{len(options.seeds)} seeds, {seconds / 60:.1f} minutes, {rows} rows, {failed} failed\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
