"""Faults of a chaos run, with their order and durations. They depend on the seed only."""

import random
from collections.abc import Iterator
from typing import NamedTuple

WORKERS = 3
BROKERS = 3


class Act(NamedTuple):
    """One fault, with its target and its duration."""

    name: str
    "Name of the method of `Stage` that causes it."
    target: int = 0
    "Number of the worker or broker that it concerns, if any."
    seconds: float = 0.0
    "Duration of the fault."

    def __str__(self) -> str:
        whose = f" {self.target}" if self.name in TARGETED else ""
        return f"{self.name.replace('_', ' ')}{whose}" + (f" for {self.seconds} s" if self.seconds else "")


class Step(NamedTuple):
    """Acts that start at the same time, and the pause after the last of them."""

    acts: tuple[Act, ...]
    pause_s: float

    @property
    def seconds(self) -> float:
        """Return the duration of the step without the time that brokers need to recover."""
        return max(act.seconds for act in self.acts) + self.pause_s


class _Kind(NamedTuple):
    """Kind of fault that a step may draw at random. A step has at most one fault of each group."""

    name: str
    group: str
    targets: int
    shortest_s: float
    longest_s: float
    weight: int = 1


# A worker's session lasts 3 s, librdkafka waits 6 s for a response, and a commit takes at most 10 s: faults last less
# or more than each of these limits.
_KINDS = (
    _Kind("kill_worker", "worker", WORKERS, 0, 4, 4),
    _Kind("freeze_worker", "worker", WORKERS, 0.2, 2, 2),
    _Kind("freeze_worker", "worker", WORKERS, 4, 8, 3),
    _Kind("stop_worker", "worker", WORKERS, 0, 2, 1),
    _Kind("kill_broker", "broker", BROKERS, 0, 4, 2),
    _Kind("bounce_broker", "broker", BROKERS, 0, 2, 1),
    _Kind("freeze_broker", "broker", BROKERS, 1, 8, 2),
    _Kind("kill_only_replicas_during_commits", "broker", BROKERS, 8, 12, 2),
    _Kind("cut_wire", "wire", BROKERS, 0, 5, 2),
    _Kind("delay_wire", "wire", BROKERS, 2, 6, 1),
    _Kind("hold_wire", "wire", BROKERS, 2, 8, 2),
    _Kind("lose_ends_of_transactions", "wire", 0, 1, 4, 2),
    _Kind("lose_answers_to_ends_of_transactions", "wire", 0, 1, 4, 2),
    _Kind("hold_answers_to_ends_of_transactions", "wire", 0, 2, 13, 3),
    _Kind("expire_tokens", "graph", 0, 0, 0, 1),
    _Kind("graph_down", "graph", 0, 1, 5, 1),
    _Kind("sign_in_down", "graph", 0, 1, 4, 1),
    _Kind("graph_errors", "graph", 0, 2, 6, 2),
    _Kind("fail_ranges_with_an_instant", "graph", 0, 4, 12, 2),
    _Kind("refuse_ranges_with_an_instant", "graph", 0, 4, 12, 1),
)
TARGETED = frozenset(kind.name for kind in _KINDS if kind.targets)
_TOGETHER = (1, 1, 1, 2, 2, 3)


def steps(seed: int) -> Iterator[Step]:
    """Yield the steps of a seed without end."""
    chance = random.Random(seed)
    while True:
        acts: dict[str, Act] = {}
        for _ in range(chance.choice(_TOGETHER)):
            (kind,) = chance.choices(_KINDS, [kind.weight for kind in _KINDS])
            seconds = round(chance.uniform(kind.shortest_s, kind.longest_s), 1)
            acts.setdefault(kind.group, Act(kind.name, chance.randrange(kind.targets or 1), seconds))
        yield Step(tuple(acts.values()), round(chance.uniform(0.5, 4), 1))


def within(seed: int, seconds: float) -> list[Step]:
    """Return the first steps of a seed that together take at most `seconds`.

    The steps of a longer time begin with these.
    """
    chosen: list[Step] = []
    for step in steps(seed):
        seconds -= step.seconds
        if seconds < 0:
            break
        chosen.append(step)
    return chosen
