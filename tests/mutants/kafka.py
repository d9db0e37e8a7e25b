"""Mutants of everything that communicates with Kafka: only a real broker catches them."""

from tests.mutants.mutant import Mutant

_TRANSACTION = "connector/kafka/transaction.py"
_MEMBERSHIP_FILE = "connector/kafka/membership.py"
_TRANSACTIONS = "tests/integration/test_transactions.py"
_MEMBERSHIP = "tests/integration/test_membership.py"
_FENCING = "tests/e2e/test_fencing.py"
_HANGING_FILE = "connector/kafka/hanging.py"
_VISIBILITY = "connector/kafka/visibility.py"
_LOG_READER = "connector/kafka/log_reader.py"
_HANGING = "tests/integration/test_hanging.py"

KAFKA = (
    Mutant(
        "an incomplete copy of the state is used",
        "connector/kafka/state.py",
        "if copy_marker.KEY in records:",
        "if copy_marker.KEY in ():",
        "tests/unit/test_copy_state.py -k test_worker_refuses_state_of_an_incomplete_copy",
    ),
    Mutant(
        "a copy to another cluster keeps the offsets of the old row topic",
        "connector/commands/state_copy.py",
        "if self.same_cluster and topic == before.topic:",
        "if topic == before.topic:",
        "tests/unit/test_copy_state.py -k test_checkpoint_for_another_topic_gets_its_end_offsets",
    ),
    Mutant(
        "a source that changed during the copy is accepted",
        "connector/commands/state_copy.py",
        "if source.marker().ends != marker.ends:",
        "if source.marker().ends < marker.ends:",
        "tests/unit/test_copy_state.py -k test_state_copy_fails_if_the_source_changes_meanwhile",
    ),
    Mutant(
        "the markers of a copy are removed before it is declared complete",
        "connector/kafka/copy_target.py",
        "self._write_markers(msgspec.structs.replace(marker, complete=True).record)",
        "self._write_markers(marker.record)",
        "tests/e2e/test_copy_state.py -k test_state_copy_killed_before_any_record_can_be_repeated",
        broker=True,
    ),
    Mutant(
        "rewritten rows cause no new progress records",
        _HANGING_FILE,
        "offsets=offsets, stated=()",
        "offsets=offsets",
        f"{_HANGING} -k test_new_owner_completes_a_hanging_commit",
        broker=True,
    ),
    Mutant(
        "a row topic that ends at the stored offset counts as recreated",
        "connector/kafka/recreation.py",
        "end is not None and end < furthest[place]",
        "end is not None and end <= furthest[place]",
        "tests/integration/test_recreation.py -k test_row_topic_shorter_than_an_offset_counts_as_recreated",
        broker=True,
    ),
    Mutant(
        "every topic counts as a topic without an id",
        "connector/kafka/recreation.py",
        "return {name: found for name, found in ids.items() if found}",
        "return dict.fromkeys(ids, '')",
        "tests/e2e/test_lost_topics.py -k test_progress_offsets_restart_at_0_in_a_recreated_row_topic",
        broker=True,
    ),
    Mutant(
        "neither control offset nor generation is sent",
        _TRANSACTION,
        "        self._send_offsets(producer, context)\n        return offsets",
        "        return offsets",
        f"{_FENCING} -k test_group_generation_stops_an_old_owner_not_yet_fenced",
        broker=True,
    ),
    Mutant(
        "a member without an assignment never rejoins",
        _MEMBERSHIP_FILE,
        "time.monotonic() - since > self._rejoin_s",
        "since < 0",
        f"{_MEMBERSHIP} -k 'test_group_member_without_an_assignment_rejoins"
        " or test_group_member_rejoins_after_it_lost_its_shards"
        " or test_exception_in_the_consumer_thread_replaces_the_consumer'",
        broker=True,
    ),
    Mutant(
        "a member that lost its shards never rejoins",
        _MEMBERSHIP_FILE,
        "self.changed_at = self._waits_since = time.monotonic()",
        "self.changed_at = time.monotonic()",
        f"{_MEMBERSHIP} -k test_group_member_rejoins_after_it_lost_its_shards",
        broker=True,
    ),
    Mutant(
        "the restore does not wait for a late transaction marker",
        _LOG_READER,
        "if decided_within_s == math.inf or offset >= self._high(at):",
        "if decided_within_s:",
        "tests/integration/test_log_reader.py -k test_log_reader_waits_for_a_late_transaction_marker",
        broker=True,
    ),
    Mutant(
        "a hanging transaction is aborted although some of its records are visible",
        _HANGING_FILE,
        "    if any(visible.values()):\n        return True\n",
        "",
        "tests/unit/test_hanging.py -k test_one_visible_record_proves_that_a_transaction_committed",
    ),
    Mutant(
        "an abort counts as proved without a check of the commit before it",
        _TRANSACTION,
        "if lost.records or lost.unreadable:",
        "if lost.unreadable:",
        "tests/unit/test_hanging.py",
    ),
    Mutant(
        "an abort counts as proved before its marker is in every partition",
        _TRANSACTION,
        "        if left_open:\n",
        "        if not ends:\n",
        f"{_HANGING} -k test_commit_after_a_hanging_abort_publishes_no_aborted_row",
        broker=True,
    ),
    Mutant(
        "a new producer does not verify the last commit",
        _HANGING_FILE,
        "committed = [] if last is None else [_places(last)]",
        "committed: list[Places] = []",
        f"{_HANGING} -k test_new_owner_completes_a_hanging_commit",
        broker=True,
    ),
    Mutant(
        "a commit that is visible in one partition counts as visible in all",
        _VISIBILITY,
        "        if (topic, number) not in unreadable and offset_ranges[-1][1] not in visible[topic, number]\n",
        "        if (topic, number) not in unreadable and not any(visible.values())\n",
        f"{_HANGING} -k test_new_owner_completes_a_hanging_commit",
        broker=True,
    ),
    Mutant(
        "only the last commit is verified, although earlier ones may hang as well",
        _HANGING_FILE,
        "return merge(record.unproven, record.places)",
        "return record.places",
        f"{_HANGING} -k test_two_successive_hanging_commits_are_both_restored",
        broker=True,
    ),
    Mutant(
        "hanging transactions end in configured topics only",
        _HANGING_FILE,
        "return partitions | last_offsets(places).keys() | set(inspection.internal)",
        "return partitions | set(inspection.internal)",
        f"{_HANGING} -k test_hanging_transactions_end_in_unconfigured_topics_as_well",
        broker=True,
    ),
    Mutant(
        "offsets count as sent although sending them failed",
        _TRANSACTION,
        "    except KafkaException as error:\n        outcome.append(error)\n    else:\n        outcome.append(None)\n",
        "    except KafkaException as error:\n        outcome.append(error)\n    finally:\n"
        "        outcome.insert(0, None)\n",
        f"{_TRANSACTIONS} -k test_transaction_is_not_committed_if_sending_offsets_failed",
        broker=True,
    ),
    Mutant(
        "a producer call that never returns is awaited forever",
        "connector/kafka/publishing.py",
        "        while not future.done() and self.is_within_bounds:\n",
        "        while not future.done():\n",
        "tests/unit/test_shard.py -k test_producer_call_that_never_returns_is_abandoned",
    ),
    Mutant(
        "a producer call that is cancelled twice is not abandoned",
        "connector/kafka/publishing.py",
        "            self._is_abandoned = not future.done()\n        if self._is_abandoned:\n",
        "        self._is_abandoned = not future.done()\n        if self._is_abandoned:\n",
        "tests/unit/test_shard.py -k test_producer_call_cancelled_twice_is_abandoned_at_once",
    ),
    Mutant(
        "a circular error chain causes an endless loop",
        "connector/kafka/publishing.py",
        "    while related is not None and related not in found:\n",
        "    while related is not None:\n",
        "tests/unit/test_shard.py -k test_producer_call_raises_an_error_with_a_circular_cause --timeout=5",
    ),
    Mutant(
        "the error of a failed transaction keeps its producer alive",
        "connector/kafka/publishing.py",
        "            traceback.clear_frames(one.__traceback__)\n",
        "            pass\n",
        f"{_TRANSACTIONS} -k test_failed_transaction_ends_the_threads_of_its_producer",
        broker=True,
    ),
    Mutant(
        "the state is written in a second transaction",
        _TRANSACTION,
        "        self._write([record._replace(headers=headers) for record in states])\n",
        "        producer.commit_transaction(_CALL_S)\n"
        "        producer.begin_transaction()\n"
        "        self._write([record._replace(headers=headers) for record in states])\n",
        f"{_TRANSACTIONS} -k test_producer_of_an_old_generation_cannot_commit",
        broker=True,
    ),
    Mutant(
        "the state is written outside of the transaction",
        _TRANSACTION,
        "        self._write([record._replace(headers=headers) for record in states])\n",
        "        outside = Producer({k: v for k, v in self._settings.items() if not k.startswith('transaction')})\n"
        "        for one in states:\n"
        "            outside.produce(one.topic, one.value, one.key, one.partition)\n"
        "        outside.flush()\n",
        f"{_TRANSACTIONS} -k test_producer_of_an_old_generation_cannot_commit",
        broker=True,
    ),
    Mutant(
        "commit is called again after a timeout",
        _TRANSACTION,
        "            self._drop()\n"
        '            raise self._restart_error(error, f"a commit of {self._name} failed") from error\n',
        "            producer.commit_transaction(_CALL_S)\n",
        f"{_TRANSACTIONS} -k test_timed_out_commit_does_not_affect_later_transactions",
        broker=True,
    ),
    Mutant(
        "a commit that timed out counts as successful",
        _TRANSACTION,
        'raise self._restart_error(error, f"a commit of {self._name} failed") from error',
        "return offsets",
        f"{_TRANSACTIONS} -k test_timed_out_commit_does_not_affect_later_transactions",
        broker=True,
    ),
    Mutant(
        "the outcome of an abort is ignored",
        _TRANSACTION,
        "raise self._restart_error(second, failed) from second",
        "assert doing",
        f"{_TRANSACTIONS} -k test_abort_without_a_response_does_not_count_as_aborted",
        broker=True,
    ),
    Mutant(
        "a transaction with an abortable error is not aborted",
        _TRANSACTION,
        "(cause.txn_requires_abort() or cause.code() in _UNDELIVERED) and",
        "cause.code() in _UNDELIVERED and",
        f"{_TRANSACTIONS} -k test_producer_of_an_old_generation_cannot_commit",
        broker=True,
    ),
    Mutant(
        "a fenced producer counts as an ordinary error",
        _TRANSACTION,
        "return error.code() in _FENCED",
        "return error.code() < min(_FENCED)",
        f"{_TRANSACTIONS} -k test_new_producer_fences_the_previous_one",
        broker=True,
    ),
    Mutant(
        "each worker uses its own transactional ids",
        _TRANSACTION,
        'transactional_id.rpartition("-")[0], clients.producer(transactional_id)',
        "transactional_id.rpartition('-')[0], clients.producer(f'{transactional_id}-{id(self)}')",
        f"{_FENCING} -k test_producer_epoch_stops_an_old_owner_that_sent_offsets",
        broker=True,
    ),
    Mutant(
        "an offset is that of the last record, not of the next",
        "connector/kafka/publishing.py",
        "offsets[partition] = offset + 1",
        "offsets[partition] = offset",
        f"{_TRANSACTIONS} -k test_producer_of_an_old_generation_cannot_commit",
        broker=True,
    ),
    Mutant(
        "the restore reads uncommitted records",
        "connector/kafka/clients.py",
        '"isolation.level": isolation,',
        '"isolation.level": "read_uncommitted",',
        "tests/integration/test_restore.py",
        broker=True,
    ),
    Mutant(
        "deleted records are restored",
        _LOG_READER,
        "values.pop(key, None)",
        "pass",
        "tests/integration/test_restore.py",
        broker=True,
    ),
    Mutant(
        "the consumer does not seek back to the committed offset",
        _MEMBERSHIP_FILE,
        "consumer.seek(partition)",
        "assert consumer",
        f"{_MEMBERSHIP} -k test_commands_are_delivered_from_the_committed_offset",
        broker=True,
    ),
    Mutant(
        "commands are delivered before the shard is open",
        _MEMBERSHIP_FILE,
        "elif message is not None and message.partition() in self._opened:",
        "elif message is not None:",
        f"{_MEMBERSHIP} -k test_commands_are_delivered_from_the_committed_offset",
        broker=True,
    ),
    Mutant(
        "a shard moves before its hand-over",
        _MEMBERSHIP_FILE,
        "self._owner.revoked(shards).wait(_HAND_OVER_S)",
        "self._owner.revoked(shards)",
        f"{_MEMBERSHIP} -k test_shard_moves_only_after_its_release",
        broker=True,
    ),
    Mutant(
        "a poll that was already running confirms the ownership",
        _MEMBERSHIP_FILE,
        "while self.snapshot.polls <= polls + 1 and",
        "while self.snapshot.polls <= polls and",
        "tests/unit/test_holding.py",
    ),
    Mutant(
        "a snapshot still contains revoked shards",
        _MEMBERSHIP_FILE,
        "            self._owner.revoked(shards).wait(_HAND_OVER_S)\n        self._partitions -= shards\n",
        "            self._owner.revoked(shards).wait(_HAND_OVER_S)\n",
        "tests/unit/test_service.py -k test_worker_is_not_ready_until_a_new_assignment_arrives",
    ),
    Mutant(
        "a snapshot still contains a lost shard when the owner learns of the loss",
        _MEMBERSHIP_FILE,
        "        self._partitions -= shards\n        self._opened -= shards\n        self._publish(None)\n"
        "        self._owner.lost(shards)\n",
        "        self._owner.lost(shards)\n        self._partitions -= shards\n        self._opened -= shards\n"
        "        self._publish(None)\n",
        f"{_MEMBERSHIP} -k 'test_snapshot_of_owned_shards_contains_no_lost_shard"
        " or test_group_member_rejoins_after_it_lost_its_shards'",
        broker=True,
    ),
    Mutant(
        "an expelled member counts as joined",
        _MEMBERSHIP_FILE,
        "        self.joined = False\n        self.changed_at = self._waits_since",
        "        self.changed_at = self._waits_since",
        f"{_MEMBERSHIP} -k test_snapshot_of_owned_shards_contains_no_lost_shard",
        broker=True,
    ),
    Mutant(
        "an unexpected error ends the thread of the group member",
        _MEMBERSHIP_FILE,
        "                self._poll(consumer)\n            except Exception as",
        "                self._poll(consumer)\n            except KafkaException as",
        f"{_MEMBERSHIP} -k test_exception_in_the_consumer_thread_replaces_the_consumer",
        broker=True,
    ),
)
