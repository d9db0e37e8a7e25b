"""The short version of `make chaos`."""

from pathlib import Path

import pytest

from tests.brokers import wait_until
from tests.chaos.acts import Act, Step, within
from tests.chaos.stage import Stage
from tests.wire import END_TXN

SEED = 22
SECONDS = 20.0


def test_chaos_actions_depend_only_on_the_seed() -> None:
    assert within(SEED, SECONDS) == within(SEED, SECONDS)
    assert within(SEED, 10 * SECONDS)[: len(within(SEED, SECONDS))] == within(SEED, SECONDS)
    assert within(SEED, SECONDS) != within(SEED + 1, SECONDS)


@pytest.mark.broker
@pytest.mark.several_java
@pytest.mark.timeout(900)
def test_random_faults_keep_exactly_once(tmp_path: Path) -> None:
    """First, a worker is killed while the responses to its commits are delayed.

    Then faults follow that the seed selects.
    """
    first = Step((Act("kill_worker", 0, 1.0), Act("hold_answers_to_ends_of_transactions", 0, 3.0)), 0.5)
    stage = Stage(SEED, tmp_path, calls_per_day=400_000, minutes=1)
    with stage:
        stage.until_rows_flow()
        stage.wires.lose(END_TXN, "hold")
        wait_until(lambda: stage.wires.struck > 0, "an end of a transaction", 60)
        stage.play([first, *within(SEED, SECONDS)])
        outcome = stage.finish()
        if outcome.problems:
            stage.keep_logs()
    assert not outcome.problems, "\n".join([*outcome.problems, stage.report()])
    assert outcome.tally.rows > 2_000
