"""Mutants of the shard: its work before and after a transaction."""

from tests.mutants.mutant import Mutant

_FILE = "connector/shard.py"
_TEST = "tests/unit/test_shard.py"
_FENCING = "tests/e2e/test_fencing.py"

_HANDED_OVER = """\
            if chain.held:
                await self._buffer.put_page(_joined(chain.held))
            item = SliceRead(self._tenant, piece, not chain.repeated, self._now())
            self._buffer.put(item)
"""
_COUNTED_FIRST = """\
            item = SliceRead(self._tenant, piece, not chain.repeated, self._now())
            self._buffer.put(item)
            if chain.held:
                await self._buffer.put_page(_joined(chain.held))
"""
_CHAINS = "tests/unit/test_sweeper_chains.py"

SHARD = (
    Mutant(
        "the local clock decides what is forgotten",
        "connector/shard.py",
        "await publisher.call(self._batches.close, changes, accounts, around.graph.clock.trusted())",
        "await publisher.call(self._batches.close, changes, accounts, around.graph.clock._now())",
        "tests/e2e/test_clocks.py -k forgets_nothing",
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
        "a deduplication index that is lost is not noticed",
        "connector/shard.py",
        "if checkpoint.remembered and key not in remembered:",
        "if not key:",
        "tests/e2e/test_lost_topics.py -k refused",
        broker=True,
    ),
    Mutant(
        "rows of a tenant whose state is lost are not used",
        "connector/shard.py",
        "memory = self._without_state.pop(key, None)",
        "memory = None",
        "tests/e2e/test_lost_topics.py -k lost_state",
        broker=True,
    ),
    Mutant(
        "a chain with repeats is not read again",
        "connector/sweeper.py",
        "                if chain.repeated:\n",
        "                if not chain:\n",
        _CHAINS,
    ),
    Mutant(
        "every slice is stable",
        "connector/sweeper.py",
        "SliceRead(self._tenant, piece, not chain.repeated, self._now())",
        "SliceRead(self._tenant, piece, True, self._now())",
        _CHAINS,
    ),
    Mutant(
        "a slice that is published again counts before its rows are handed over",
        "connector/sweeper.py",
        _HANDED_OVER,
        _COUNTED_FIRST,
        _CHAINS,
    ),
    Mutant(
        "other chains of a failed run go on",
        "connector/sweeper.py",
        'task.cancel(f"{piece.window} of a failed run")',
        "pass",
        _CHAINS,
    ),
    Mutant(
        "a transaction begins with a snapshot that does not hold the shard",
        _FILE,
        "            if self.number not in snapshot.partitions:\n                raise HandedOverError\n            if",
        "            if",
        _TEST,
    ),
    Mutant(
        "the metadata of a batch that is written again is that of the first time",
        _FILE,
        "        while True:\n            position = await self._position(control_offset)\n",
        "        position = await self._position(control_offset)\n        while True:\n",
        _TEST,
    ),
    Mutant(
        "memory before commit",
        _FILE,
        "        closing = self._closing(changes, accounts, control_offset, now)\n",
        "        closing = self._closing(changes, accounts, control_offset, now)\n"
        "        await publisher.call(batch.apply, changes, accounts)\n",
        _TEST,
    ),
    Mutant(
        "a batch that was aborted counts as committed",
        _FILE,
        "                if self._handing_over.is_set():\n                    raise HandedOverError from error\n",
        "                break\n",
        _TEST,
    ),
    Mutant(
        "a producer is opened without asking whose the shard is",
        _FILE,
        "                    await self._confirm_ownership()\n",
        "                    pass\n",
        _TEST,
    ),
    Mutant(
        "any poll confirms the ownership, also one that was on its way",
        _FILE,
        "snapshot.polls <= polls + 1 and not",
        "snapshot.polls <= polls and not",
        _TEST,
    ),
    Mutant(
        "control offset not sent: it stays where it was",
        _FILE,
        "return CommitContext(self._names.control, self.number, control_offset,",
        "return CommitContext(self._names.control, self.number, self._control,",
        _TEST,
    ),
    Mutant(
        "what is remembered is read before the former owner is fenced",
        _FILE,
        "        await publisher.call(publisher.open)\n        read = await self._read(publisher)\n",
        "        read = await self._read(publisher)\n        await publisher.call(publisher.open)\n",
        f"{_FENCING} -k known_to_the_new",
        broker=True,
    ),
    Mutant(
        "a shard that is released goes on asking Graph while its commit blocks",
        _FILE,
        "            sweeping.cancel()\n\n",
        "            sweeping.done()\n\n",
        f"{_FENCING} -k requests_nothing",
        broker=True,
    ),
    Mutant(
        "an outcome that is unknown counts as committed",
        _FILE,
        "                _restart_if_refused(error)\n                raise\n",
        "                break\n",
        "tests/e2e/test_wire.py -k does_not_land",
        broker=True,
    ),
    Mutant(
        "a batch whose state cannot be written is written",
        _FILE,
        "        if too_long is not None:\n            raise RecordTooLongError",
        "        if too_long == 0:\n            raise RecordTooLongError",
        "tests/e2e/test_length_limits.py -k stops_before_rows",
        broker=True,
    ),
    Mutant(
        "a batch that a topic refused for its length is repeated as it is",
        _FILE,
        "    if refused:\n        raise LengthRefusedError",
        "    if not error:\n        raise LengthRefusedError",
        "tests/e2e/test_length_limits.py -k lowered_while",
        broker=True,
    ),
)
