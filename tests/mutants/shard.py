"""Mutants of the shard: its work before and after a transaction."""

from tests.mutants.mutant import Mutant

_FILE = "connector/pipeline/commit_loop.py"
_LIFE = "connector/pipeline/shard.py"
_OWNERSHIP = "connector/pipeline/shard_ownership.py"
_RESTORATION = "connector/pipeline/restoration.py"
_TENANTS = "connector/pipeline/owned_tenants.py"
_TEST = "tests/unit/test_shard.py"
_FENCING = "tests/e2e/test_fencing.py"

_HANDED_OVER = """\
        if chain.held:
            room.resize(DECODED * chain.held.bytes)
            await self._buffer.put_page(chain.held._replace(room=room))
        now = self._now()
        outcome = self._scheduler.finished(piece, chain.rows, now)
        self._buffer.put(SliceRead(self._tenant, piece, outcome.steady, now))
"""
_COUNTED_FIRST = """\
        now = self._now()
        outcome = self._scheduler.finished(piece, chain.rows, now)
        self._buffer.put(SliceRead(self._tenant, piece, outcome.steady, now))
        if chain.held:
            room.resize(DECODED * chain.held.bytes)
            await self._buffer.put_page(chain.held._replace(room=room))
"""
_CHAINS = "tests/unit/test_sweeper_chains.py"

SHARD = (
    Mutant(
        "the local clock decides which rows expire",
        _FILE,
        "await publisher.call(self._shard.batches.close, changes, states, clock.trusted())",
        "await publisher.call(self._shard.batches.close, changes, states, clock._now())",
        "tests/e2e/test_clocks.py -k test_fast_clock_neither_expires_nor_duplicates_rows",
        broker=True,
    ),
    Mutant(
        "the clock of a machine is trusted before Graph has answered",
        "connector/graph/clock.py",
        "return self.now() if self.known.is_set() else None",
        "return self.now()",
        "tests/unit/test_clock.py",
    ),
    Mutant(
        "the loss of the deduplication index is not noticed",
        "connector/kafka/seen.py",
        "if rows and tenant not in found:",
        "if not tenant:",
        "tests/e2e/test_lost_topics.py -k test_worker_refuses_to_run_after_losing_the_dedup_index",
        broker=True,
    ),
    Mutant(
        "the dedup index of a tenant is not used if its state is lost",
        _TENANTS,
        "memory, tenant.orphan = tenant.orphan, None",
        "memory = None",
        "tests/e2e/test_lost_topics.py -k test_no_row_is_republished_after_the_state_topic_was_lost",
        broker=True,
    ),
    Mutant(
        "a command for a tenant that is not read yet is dropped",
        _TENANTS,
        "            self._buffer.put(Commanded(command.offset, self._now(), kept=kept))\n",
        "            self._buffer.put(Commanded(command.offset, self._now()))\n",
        _TEST,
    ),
    Mutant(
        "stored commands are lost with the next batch",
        _FILE,
        "and i.kept is not None), kept)",
        "and i.kept is not None), ())",
        _TEST,
    ),
    Mutant(
        "a page chain with repeated ids is not read again",
        "connector/core/scheduler.py",
        "return repeated and slice_.repeats <= _REPEATS",
        "return False",
        _CHAINS,
    ),
    Mutant(
        "every slice counts as stable",
        "connector/core/scheduler.py",
        "slice_.steady = not repeated",
        "slice_.steady = True",
        _CHAINS,
    ),
    Mutant(
        "a slice of a backfill with --again counts before its rows are handed over",
        "connector/pipeline/sweeper.py",
        _HANDED_OVER,
        _COUNTED_FIRST,
        _CHAINS,
    ),
    Mutant(
        "other page chains of a failed run continue",
        "connector/pipeline/sweeper.py",
        'self._tasks[piece].cancel(f"{piece.window} of a failed run")',
        "pass",
        _CHAINS,
    ),
    Mutant(
        "a transaction begins although the worker does not own the shard",
        _OWNERSHIP,
        "            if self._number not in snapshot.partitions:\n"
        "                raise HandedOverError\n            if",
        "            if",
        _TEST,
    ),
    Mutant(
        "a repeated batch is written with its old group metadata",
        _FILE,
        "        for pause_s in doubling(_FIRST_PAUSE_S, _LONGEST_PAUSE_S):\n"
        "            context = await self._shard.ownership.commit_context(control_offset)\n",
        "        context = await self._shard.ownership.commit_context(control_offset)\n"
        "        for pause_s in doubling(_FIRST_PAUSE_S, _LONGEST_PAUSE_S):\n",
        _TEST,
    ),
    Mutant(
        "the dedup index is updated before the commit",
        _FILE,
        "        await self._write(contents, control_offset)\n",
        "        await publisher.call(apply, changes, states)\n        await self._write(contents, control_offset)\n",
        _TEST,
    ),
    Mutant(
        "an aborted batch counts as committed",
        _FILE,
        "                if self._shard.ownership.handing_over.is_set():\n"
        "                    raise HandedOverError from error\n",
        "                return\n",
        _TEST,
    ),
    Mutant(
        "a producer is opened without a check of the ownership",
        _LIFE,
        "                    await self._ownership.confirm()\n",
        "                    pass\n",
        _TEST,
    ),
    Mutant(
        "a poll that began before the check confirms the ownership",
        _OWNERSHIP,
        "snapshot.polls <= polls + 1 and not",
        "snapshot.polls <= polls and not",
        _TEST,
    ),
    Mutant(
        "the control offset is not sent",
        _FILE,
        "context = await self._shard.ownership.commit_context(control_offset)",
        "context = await self._shard.ownership.commit_context(self._control)",
        _TEST,
    ),
    Mutant(
        "the dedup index is read before the former owner is fenced",
        _RESTORATION,
        "        await call(self._publisher.open)\n        values = (await self._read()).values\n",
        "        values = (await self._read()).values\n        await call(self._publisher.open)\n",
        f"{_FENCING} -k test_new_owner_restores_the_last_commit_of_the_old_owner",
        broker=True,
    ),
    Mutant(
        "a released shard sends requests to Graph while its commit blocks",
        _LIFE,
        "        self._ownership.handing_over.set()\n        self.tenants.stop_reading()\n",
        "        self._ownership.handing_over.set()\n",
        f"{_FENCING} -k test_released_shard_sends_no_request_while_its_commit_blocks",
        broker=True,
    ),
    Mutant(
        "an unknown outcome counts as committed",
        _FILE,
        "                _restart_if_refused(error)\n                raise\n",
        "                return\n",
        "tests/unit/test_shard.py -k test_shard_without_transactions_is_not_ready_until_a_commit",
    ),
    Mutant(
        "a batch is written although its state is too long",
        _FILE,
        "        if too_long is not None:\n            raise RecordTooLongError",
        "        if too_long == 0:\n            raise RecordTooLongError",
        "tests/e2e/test_length_limits.py -k test_worker_writes_no_rows_if_their_state_is_too_long",
        broker=True,
    ),
    Mutant(
        "a batch over the record limit is repeated unchanged",
        _FILE,
        "    if refused:\n        raise LengthRefusedError",
        "    if not error:\n        raise LengthRefusedError",
        "tests/e2e/test_length_limits.py -k test_worker_obeys_a_record_limit_that_is_lowered_at_run_time",
        broker=True,
    ),
)
