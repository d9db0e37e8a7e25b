"""Published benchmark figures are the measured ones, and a loss of performance is reported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gate, report, scale

ROOT = Path(__file__).parents[2]


def run(**cpu_seconds: float) -> dict[str, dict[str, Any]]:
    return {name: {"cpu_seconds": seconds} for name, seconds in cpu_seconds.items()}


QUIET = [run(engine=1.0, plain=3.0, limit=0.8, at_least_once=0.95)] * 3


def test_benchmark_gate_passes_on_a_slower_machine() -> None:
    committed = gate.ratios(QUIET)
    slower = [{name: {"cpu_seconds": 5 * run["cpu_seconds"]} for name, run in runs.items()} for runs in QUIET]
    assert gate.losses(gate.ratios(slower), committed) == []


@pytest.mark.parametrize(("times", "is_lost"), [(1.2, False), (1.3, True)])
def test_benchmark_gate_reports_a_slowdown_above_a_fifth(times: float, is_lost: bool) -> None:  # noqa: FBT001
    committed = gate.ratios(QUIET)
    planted = [runs | run(engine=times) for runs in QUIET]
    assert gate.losses(gate.ratios(planted), committed) == (list(gate.RATIOS) if is_lost else [])


def test_benchmark_gate_ignores_an_impossibly_high_reference() -> None:
    name = "exactly once ÷ at least once"
    committed = gate.ratios(QUIET) | {name: {"median": 1.4}}
    assert gate.losses(gate.ratios(QUIET), committed) == []


def test_benchmark_gate_ignores_one_outlier_among_repetitions() -> None:
    planted = [*QUIET[:2], QUIET[2] | run(engine=9.0)]
    assert gate.losses(gate.ratios(planted), gate.ratios(QUIET)) == []


def test_readme_figures_match_the_benchmark_results() -> None:
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert report.shown(results, readme) == readme


def test_benchmark_report_refuses_a_document_without_markers() -> None:
    with pytest.raises(SystemExit, match="add these two lines"):
        gate.between("nothing", "scale", "figures")


def test_benchmark_results_reveal_nothing_about_the_machine() -> None:
    for file in (ROOT / "benchmarks").glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert "/" not in text.replace("rows/s", "")
        assert "127.0.0.1" not in text


def test_benchmark_estimates_how_many_commits_tenants_need() -> None:
    random = np.random.default_rng(1)
    busy = scale.Size(10_000_000, 60, True, 0, 0, 0)  # noqa: FBT003
    quiet = busy._replace(calls_per_day=0)
    assert scale.commits([busy], 60.0, random) == 60
    assert 55 <= scale.commits([quiet], 60.0, random) <= 60
    assert 600 <= scale.commits([quiet] * 200, 60.0, random) <= 720
