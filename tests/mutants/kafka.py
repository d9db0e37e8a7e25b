"""Mutants of everything that speaks to Kafka: only a real broker notices."""

from tests.mutants.mutant import Mutant

_TRANSACTION = "connector/kafka/transaction.py"
_OWNERSHIP = "connector/kafka/ownership.py"
_TRANSACTIONS = "tests/integration/test_transactions.py"
_MEMBERSHIP = "tests/integration/test_membership.py"
_FENCING = "tests/e2e/test_fencing.py"
_HANGING = "tests/integration/test_hanging.py"

KAFKA = (
    Mutant(
        "neither control offset nor generation is sent",
        _TRANSACTION,
        "            self._send_offsets(producer, control, position.metadata)\n        except",
        "            assert control\n        except",
        f"{_FENCING} -k generation_alone",
        broker=True,
    ),
    Mutant(
        "a member that is given nothing waits for ever",
        _OWNERSHIP,
        "time.monotonic() - since > self._rejoin_s",
        "since < 0",
        f"{_MEMBERSHIP} -k anew",
        broker=True,
    ),
    Mutant(
        "a member that lost its shards waits for ever for others",
        _OWNERSHIP,
        "self.changed_at = self._waits_since = time.monotonic()",
        "self.changed_at = time.monotonic()",
        f"{_MEMBERSHIP} -k hears_of_no_others",
        broker=True,
    ),
    Mutant(
        "an error that confluent-kafka mangles ends the member's thread",
        _OWNERSHIP,
        "except (SystemError, AttributeError) as error:",
        "except SystemError as error:",
        f"{_MEMBERSHIP} -k mangles",
        broker=True,
    ),
    Mutant(
        "what is remembered ends at an open transaction that is over",
        "connector/kafka/restore.py",
        "if self._decided_within_s == math.inf or (message.offset() or 0) >= self._end(topic):",
        "if self._decided_within_s:",
        f"{_HANGING} -k can_be_seen",
        broker=True,
    ),
    Mutant(
        "a transaction that hangs is aborted, though rows of it can be seen",
        "connector/kafka/hanging.py",
        "if visible(clients, _last_rows(clients, names.state, shard, committed)):",
        "if not names:",
        f"{_HANGING} -k can_be_seen",
        broker=True,
    ),
    Mutant(
        "an abort says nothing of the commit before it",
        _TRANSACTION,
        "if not self.confirm(self.committed, position):",
        "if not position:",
        f"{_HANGING} -k takes_a_hanging_commit",
        broker=True,
    ),
    Mutant(
        "commit before produce: the state follows in a transaction of its own",
        _TRANSACTION,
        "            ends = self._write_tagged(last)\n",
        "            producer.commit_transaction(_CALL_S)\n"
        "            producer.begin_transaction()\n"
        "            ends = self._write_tagged(last)\n",
        f"{_TRANSACTIONS} -k former_generation",
        broker=True,
    ),
    Mutant(
        "state written outside the transaction",
        _TRANSACTION,
        "            ends = self._write_tagged(last)\n",
        "            ends: dict[str, dict[int, int]] = {}\n"
        "            outside = Producer({k: v for k, v in self._settings.items() if not k.startswith('transaction')})\n"
        "            for one in closing.last(offsets):\n"
        "                outside.produce(one.topic, one.value, one.key, one.partition)\n"
        "            outside.flush()\n",
        f"{_TRANSACTIONS} -k former_generation",
        broker=True,
    ),
    Mutant(
        "commit called again after a time-out",
        _TRANSACTION,
        "            self._drop()\n"
        '            raise self._after(error, f"committing a transaction of {self._name}") from error\n',
        "            producer.commit_transaction(_CALL_S)\n",
        f"{_TRANSACTIONS} -k pollutes",
        broker=True,
    ),
    Mutant(
        "a commit that timed out counts as done",
        _TRANSACTION,
        'raise self._after(error, f"committing a transaction of {self._name}") from error',
        "return offsets",
        f"{_TRANSACTIONS} -k pollutes",
        broker=True,
    ),
    Mutant(
        "abort outcome ignored",
        _TRANSACTION,
        'raise self._after(second, f"aborting a transaction of {self._name}") from second',
        "assert second",
        f"{_TRANSACTIONS} -k not_answered",
        broker=True,
    ),
    Mutant(
        "what wants an abort is not aborted",
        _TRANSACTION,
        "(cause.txn_requires_abort() or cause.code() in _UNDELIVERED) and",
        "cause.code() in _UNDELIVERED and",
        f"{_TRANSACTIONS} -k former_generation",
        broker=True,
    ),
    Mutant(
        "a fence is an error like another",
        _TRANSACTION,
        "return error.code() in _FENCED",
        "return error.code() < min(_FENCED)",
        f"{_TRANSACTIONS} -k fences_who_had_it",
        broker=True,
    ),
    Mutant(
        "every worker has transactional ids of its own",
        _TRANSACTION,
        'transactional_id.rpartition("-")[0], clients.producer(transactional_id)',
        "transactional_id.rpartition('-')[0], clients.producer(f'{transactional_id}-{id(self)}')",
        f"{_FENCING} -k epoch_alone",
        broker=True,
    ),
    Mutant(
        "an offset is that of the last record, not of the next",
        "connector/kafka/publishing.py",
        "message.offset() + 1",
        "message.offset() + 0",
        f"{_TRANSACTIONS} -k former_generation",
        broker=True,
    ),
    Mutant(
        "isolation level of restore read_uncommitted",
        "connector/kafka/clients.py",
        '"isolation.level": isolation,',
        '"isolation.level": "read_uncommitted",',
        "tests/integration/test_restore.py",
        broker=True,
    ),
    Mutant(
        "what was deleted is restored",
        "connector/kafka/restore.py",
        "values.pop(key, None)",
        "pass",
        "tests/integration/test_restore.py",
        broker=True,
    ),
    Mutant(
        "seek back omitted",
        _OWNERSHIP,
        "consumer.seek(partition)",
        "assert consumer",
        f"{_MEMBERSHIP} -k offset_that_the_shard_asks_for",
        broker=True,
    ),
    Mutant(
        "commands come before the shard is open",
        _OWNERSHIP,
        "elif message is not None and message.partition() in self._opened:",
        "elif message is not None:",
        f"{_MEMBERSHIP} -k offset_that_the_shard_asks_for",
        broker=True,
    ),
    Mutant(
        "a shard moves before it was handed over",
        _OWNERSHIP,
        "self._owner.revoked(shards).wait(_HAND_OVER_S)",
        "self._owner.revoked(shards)",
        f"{_MEMBERSHIP} -k handed_over",
        broker=True,
    ),
    Mutant(
        "a snapshot holds what was revoked",
        _OWNERSHIP,
        "            self._owner.revoked(shards).wait(_HAND_OVER_S)\n        self._partitions -= shards\n",
        "            self._owner.revoked(shards).wait(_HAND_OVER_S)\n",
        f"{_MEMBERSHIP} -k handed_over",
        broker=True,
    ),
    Mutant(
        "a snapshot holds what was lost when its owner is told",
        _OWNERSHIP,
        "        self._partitions -= shards\n        self._opened -= shards\n        self._publish(None)\n"
        "        self._owner.lost(shards)\n",
        "        self._owner.lost(shards)\n        self._partitions -= shards\n        self._opened -= shards\n"
        "        self._publish(None)\n",
        f"{_MEMBERSHIP} -k lost",
        broker=True,
    ),
)
