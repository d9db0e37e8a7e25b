"""Seeded history of a worker with crashes, outages and wrong clocks, which the model checks at each commit."""

import math
import random
from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from connector.core import failing_ranges, jobs
from connector.core.coverage import Window
from connector.graph.clock import TrustedClock
from connector.kafka import state
from tests.property.model import (
    Commit,
    Died,
    Setting,
    Topics,
    Worker,
    World,
    call,
    moment,
    seconds_of,
    some_calls,
    sweep,
)
from tests.property.truth import Truth

FAR = timedelta(days=150)
SETTINGS = (
    Setting((sweep(1, 5), sweep(5, 40), sweep(30, 240))),
    Setting((sweep(1, 5), sweep(5, 40), sweep(30, 240)), slice=timedelta(minutes=17), concurrency=1),
    Setting((sweep(3, 90),)),
    Setting((sweep(3, 60), sweep(7, 15)), slice=timedelta(minutes=25)),
    Setting((sweep(1, 4), sweep(4, 30)), start=timedelta(hours=-3), settle=timedelta(seconds=45)),
    Setting((sweep(3, 20), sweep(20, 200)), start=timedelta(hours=-5), slice=timedelta(hours=2)),
)
_HOUR_S = 3600.0
_LONGEST_STEP_S = 31.0
_LONGEST_RUN_S = 900.0
"Upper limit for the duration of a run of the deepest sweep in a storm, crashes included."


def deepest_s(setting: Setting) -> float:
    return max(one.overlap for one in setting.sweeps).total_seconds()


def cadence_s(setting: Setting) -> float:
    """Return the cadence of the deepest sweep, in seconds."""
    return max(setting.sweeps, key=lambda one: one.overlap).every.total_seconds()


class Storm:
    """A seeded history. The worker takes its time from a TrustedClock, as in production."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.setting = SETTINGS[seed % len(SETTINGS)]
        deep_s, shortest_s = deepest_s(self.setting), self.setting.shortest_horizon.total_seconds()
        self.is_near = rng.random() < 0.6
        "True if each start draws a horizon near the deepest overlap. Otherwise the horizon is much longer."
        self.until_s = rng.uniform(1.0, 2.0) * (shortest_s if self.is_near else deep_s) + _HOUR_S
        self.clock_is_right = rng.random() < 0.5
        tenants = ["t1", "t2"] if rng.random() < 0.3 else ["t1"]
        self.worlds = {tenant: self._world() for tenant in tenants}
        self.topics = Topics(observe=self._check)
        self.truths = {tenant: Truth() for tenant in tenants}
        self.checked_reads = self.checked_progress = 0
        self.time_s = self.elapsed_s = 0.0
        self.ahead_s = 0.0 if self.clock_is_right else rng.choice([0.0, 12.0, 30.0, 48.0]) * _HOUR_S
        self.tolerance_s = 1e-6 if self.clock_is_right else 1.0 + 1e-6
        "Seconds. Graph's Date has whole seconds, so a clock may stay ahead by one second. The rest covers rounding."
        self.newest_now_s = -math.inf
        self.was_set_back = False
        self.clock = self._clock()
        self.worker: Worker | None = None
        self.away_until_s = dict.fromkeys(tenants, 0.0)
        self.commands: dict[str, list[jobs.Command]] = defaultdict(list)
        self.paused_until_s = dict.fromkeys(tenants, 0.0)
        self.shortest_horizon = FAR
        self.hindered: list[tuple[float, float]] = []
        "Times at which a process, Graph or an operator kept a tenant from being read."

    def _world(self) -> World:
        rng, begin_s = self.rng, self.setting.start.total_seconds()
        deep_s = deepest_s(self.setting)
        world = World(some_calls(rng, rng.randrange(20, 70), self.until_s, 1.3 * deep_s), rng.choice([2, 5, 50]))
        for number in range(rng.randrange(20) if begin_s else 0):  # the history before the first start
            world.calls.append(call(f"old-{number}", rng.uniform(begin_s - 600, 0), 5.0))
        world.unreadable = [self._unreadable() for _ in range(rng.choice([0, 0, 1, 2, 5]))]
        for one in world.calls if rng.random() < 0.5 else []:
            if rng.random() < 0.2:
                one.withdrawn_s = one.versions[-1].from_s + rng.uniform(1, rng.choice([300, deep_s]))
        return world

    def _unreadable(self) -> tuple[float, float, float]:
        """Return a moment of call time that Graph does not serve for some time."""
        at_s, since_s = self.rng.uniform(0, self.until_s), self.rng.uniform(0, self.until_s)
        return at_s, since_s, min(self.until_s, since_s + self.rng.uniform(0, 1.5 * deepest_s(self.setting)))

    def _clock(self) -> TrustedClock:
        return TrustedClock(lambda: moment(self.time_s + self.ahead_s), lambda: self.elapsed_s)

    def first_start_s(self, tenant: str) -> float:
        """Return the start before which calls are not read. The first commit fixes it."""
        return seconds_of(state.restore(self.topics.state).checkpoints[tenant].state.start)

    def missed(self, tenant: str) -> tuple[Window, ...]:
        """Return the call time that the deepest sweep reports as missed."""
        sweeps = state.restore(self.topics.state).checkpoints[tenant].state.sweeps
        return max(sweeps, key=lambda one: one.sweep.overlap).missed

    def now_s(self) -> float:
        """Return the time that the worker uses."""
        now_s = seconds_of(self.clock.now())
        if self.clock.known.is_set():
            self.was_set_back = self.was_set_back or now_s < self.newest_now_s
            self.newest_now_s = max(self.newest_now_s, now_s)
        return now_s

    def step(self) -> None:
        """Advance the time a little and let one random event happen."""
        rng = self.rng
        self._pass(rng.choice([0.3, 2.0, 9.0, _LONGEST_STEP_S]))
        if rng.random() < 0.004:  # a poll is late, or the machine was suspended
            self._pass(rng.uniform(60, 0.4 * deepest_s(self.setting)), asleep=rng.random() < 0.5)
        if not self.clock_is_right and rng.random() < 0.01:
            self.ahead_s = rng.choice([0.0, rng.uniform(-400, 400), rng.uniform(-30, 30), rng.uniform(1, 48) * _HOUR_S])
        if self.worker is None:
            if rng.random() < 0.02:  # the worker is not restarted for some time
                self._pass(rng.uniform(0, 1.2 * deepest_s(self.setting)))
            self._live()
        assert self.worker is not None
        try:
            self._act(self.worker)
        except Died:
            self.worker = None

    def _pass(self, seconds: float, *, asleep: bool = False) -> None:
        """Let time pass. The monotonic clock of a machine that is asleep stands still."""
        if seconds > _LONGEST_STEP_S:
            self.hindered.append((self.time_s, self.time_s + seconds))
        self.time_s = round(self.time_s + seconds, 3)
        self.elapsed_s = round(self.elapsed_s + (0.0 if asleep else seconds), 3)

    def _live(self) -> None:
        """Start a process. Its horizon may have been raised or lowered since the last one."""
        self.clock = self._clock()
        if self.rng.random() < 0.1:
            self._lose_state()
        horizon = self._horizon()
        self.shortest_horizon = min(self.shortest_horizon, horizon)
        # Only the state records which rows expired before the horizon was raised: see docs/guarantees.md.
        setting = replace(self.setting, horizon=horizon if self.topics.state else self.shortest_horizon)
        self.worker = Worker(setting, self.worlds, self.topics, self.now_s())
        for tenant, commands in self.commands.items():
            for command in commands:  # commands after the committed offset are still on the control topic
                self.worker.command(tenant, command, self.now_s())

    def _horizon(self) -> timedelta:
        shortest = self.setting.shortest_horizon
        if not self.is_near:
            return FAR
        further = timedelta(minutes=self.rng.choice([0.0, self.rng.uniform(0, 60), self.rng.uniform(60, 600)]))
        return self.rng.choice([shortest, shortest + further, shortest + further, FAR])

    def _lose_state(self) -> None:
        """Delete the state topic while the deduplication index is whole."""
        self.topics.state.clear()
        self.truths = {tenant: Truth() for tenant in self.worlds}

    def _act(self, worker: Worker) -> None:
        rng = self.rng
        for tenant in self.worlds:
            if rng.random() < 0.003:
                self.away_until_s[tenant] = self.time_s + rng.uniform(0, 0.7 * deepest_s(self.setting))
                self.hindered.append((self.time_s, self.away_until_s[tenant]))
            self._order(worker, tenant)
            if self.time_s < self.away_until_s[tenant]:
                worker.fail(tenant, self.now_s(), permanent=self.away_until_s[tenant] % 2 < 1)
                continue
            worker.sweep(tenant, self.now_s(), self._learn_time)
            for _ in range(rng.randrange(1, 9)):
                if worker.has_chains(tenant):
                    self._answered()
                    is_slow = rng.random() < 0.2
                    worker.read_page(tenant, rng.randrange(9), self.time_s, self.now_s(), slow=is_slow)
        if rng.random() < 0.01:
            raise Died
        worker.take(rng.choice([1, 3, 100]))
        if rng.random() < 0.5:
            death = rng.choice(["before", "after"]) if rng.random() < 0.05 else ""
            is_trusted, aborts = self.clock.known.is_set(), int(rng.random() < 0.1)
            worker.commit(self.time_s, self.now_s(), aborts=aborts, death=death, is_trusted=is_trusted)

    def _learn_time(self) -> float | None:
        """Return the time that Graph has confirmed, or None if Graph has not answered yet."""
        if not self.clock.known.is_set():
            if self.rng.random() < 0.5:
                return None
            self._answered()
        return self.now_s()

    def _answered(self) -> None:
        """Pass the Date of a response of Graph, which has whole seconds, to the clock."""
        self.clock.answered(moment(math.floor(self.time_s)))

    def _order(self, worker: Worker, tenant: str) -> None:
        """Pause and resume the tenant as an operator, and submit jobs that wait meanwhile."""
        rng = self.rng
        if rng.random() < 0.002:
            self.paused_until_s[tenant] = self.time_s + rng.uniform(0, 0.5 * deepest_s(self.setting))
            self.hindered.append((self.time_s, self.paused_until_s[tenant] + _LONGEST_STEP_S))
            self._command(worker, tenant, "pause")
            for _ in range(rng.randrange(4)):
                self._command(worker, tenant, "backfill")
        elif rng.random() < 0.001:
            self._command(worker, tenant, "backfill")
        elif 0 < self.paused_until_s[tenant] < self.time_s:
            self._resume(worker, tenant)

    def _resume(self, worker: Worker, tenant: str) -> None:
        self.paused_until_s[tenant] = 0.0
        self._command(worker, tenant, "resume")

    def _command(self, worker: Worker, tenant: str, what: str) -> None:
        rng, now_s = self.rng, self.now_s()
        from_s = self.time_s - rng.uniform(60, 1.3 * self.setting.shortest_horizon.total_seconds())
        window = Window(moment(math.floor(from_s)), moment(math.ceil(rng.uniform(from_s + 1, self.time_s + 2))))
        id_ = str(UUID(int=rng.getrandbits(128)))
        command = jobs.Command(id_, what, moment(now_s), window if what == "backfill" else None)  # type: ignore[arg-type]
        self.commands[tenant].append(command)
        worker.command(tenant, command, now_s)

    def _check(self, commit: Commit) -> None:
        """Compare the contents of a commit with the model."""
        reads, self.checked_reads = self.topics.reads[self.checked_reads :], len(self.topics.reads)
        records, self.checked_progress = self.topics.progress[self.checked_progress :], len(self.topics.progress)
        checkpoints = state.restore(self.topics.state).checkpoints
        for tenant in commit.tenants:
            truth, known = self.truths[tenant], checkpoints[tenant].state
            truth.record([read for read in reads if read.tenant == tenant])
            truth.check_coverage(known, commit.time_s, self.tolerance_s)
            truth.check_gaps(known, may_claim_less=self.was_set_back)
            truth.check_progress(known, commit.time_s, self.tolerance_s)
            for statement in records:
                if statement.record["tenantId"] == tenant:
                    truth.check_statement(statement, known)
            if commit.trusted_s is not None:
                truth.forget(commit.trusted_s, commit.horizon)

    def run(self) -> Topics:
        """Run the storm, then a time without faults until everything that is due has been read."""
        while self.time_s < self.until_s:
            self.step()
        self.ahead_s = 0.0
        latest_s = max(v.from_s for world in self.worlds.values() for one in world.calls for v in one.versions)
        end_s = max(self.time_s, latest_s) + deepest_s(self.setting) + 3 * cadence_s(self.setting)
        self._live()
        self._answered()
        worker = self.worker
        assert worker is not None
        for tenant in self.worlds:
            self._resume(worker, tenant)
        while self.time_s < end_s:
            self._pass(self.setting.sweeps[0].every.total_seconds())
            self._answered()
            worker.drain(self.time_s, self.now_s())
        self._check_end(worker)
        return self.topics

    def _check_end(self, worker: Worker) -> None:
        """Raise unless all work is done at the end, and only call time behind the horizon is missing."""
        now = moment(self.time_s)
        assert worker.is_idle(now)
        for tenant, plan in worker.plans.items():
            assert failing_ranges.isolated(plan.failing_ranges) == []
            assert all(job.state in jobs.ENDED for job in plan.orders.jobs)
            self.truths[tenant].check_gaps(plan, may_claim_less=False)
            missed = [window for sweep_state in plan.sweeps for window in sweep_state.missed]
            assert self.is_near or not missed
            latest = max(plan.forgotten_before, now - self.shortest_horizon + timedelta(minutes=30))
            assert all(window.end <= latest for window in missed)
            self._check_missed(tenant)

    def _check_missed(self, tenant: str) -> None:
        """Raise if the deepest sweep has missed call time although it had enough time to read it again."""
        hindered = sorted(
            self.hindered + [(since_s, until_s) for _, since_s, until_s in self.worlds[tenant].unreadable]
        )
        usable_s = self.shortest_horizon.total_seconds() - _HOUR_S / 2
        enough_s = cadence_s(self.setting) + _LONGEST_RUN_S
        for window in self.missed(tenant) if self.clock_is_right else ():
            for second in range(int(seconds_of(window.start)), int(seconds_of(window.end))):
                from_s = second + deepest_s(self.setting)
                for since_s, until_s in [*hindered, (second + usable_s, math.inf)]:
                    assert min(since_s, second + usable_s) - from_s < enough_s, (
                        f"the deepest sweep missed {window} without a reason"
                    )
                    from_s = max(from_s, until_s)
