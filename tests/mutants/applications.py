"""Breakages of the application layer: for each mistake, and each sequence that once went wrong, what would let it happen again.

Each names the one test that has to notice it.
"""

from __future__ import annotations

from tests.mutants.breakages import Breakage

_IDS = "tests/app/test_mistakes_ids.py::test_mistake_"
_OFFSETS = "tests/app/test_mistakes_offsets.py::test_mistake_"
_OUTCOMES = "tests/app/test_mistakes_outcomes.py::test_mistake_"
_REBALANCES = "tests/app/test_mistakes_rebalances.py::test_mistake_"
_SEQUENCES = "tests/app/test_sequences.py::test_"
_UNIT = "tests/unit/app/test_intake.py::test_"
_ENDINGS = "tests/unit/app/test_endings.py::test_"

MISTAKES = [
    Breakage(
        "mistake 1: workers share an id",
        "app/exchange.py",
        'return f"{self.app}.{self.instance}.{self.worker}"',
        'return f"{self.app}.{self.instance}.0"',
        _IDS + "01_one_transactional_id_for_each_worker",
    ),
    Breakage(
        "mistake 2: an id of its own for each start",
        "app/identity.py",
        "    if not path.exists():\n",
        "    if True:\n",
        _IDS + "02_a_restart_ends_the_transaction_of_the_dead",
    ),
    Breakage(
        "mistake 3: fences are not counted",
        "app/exchange.py",
        "        return len(self._times) == 2 and",
        "        return False and",
        _UNIT + "two_fences_within_a_minute_are_too_many",
    ),
    Breakage(
        "mistake 4: auto-commit is on",
        "app/settings.py",
        '            "enable.auto.commit": False,\n            "enable.auto.offset.store": False,\n',
        '            "enable.auto.commit": True,\n            "enable.auto.offset.store": True,\n',
        _OFFSETS + "04_nothing_commits_offsets_outside_the_transaction",
    ),
    Breakage(
        "mistake 5: the offset of the record, not of the next, where there is one topic",
        "app/intake.py",
        "{(topic, partition): offset + 1 for partition, offset in numbers.items()}",
        "{(topic, partition): offset for partition, offset in numbers.items()}",
        _UNIT + "the_next_offset_is_that_after_the_last_record",
    ),
    Breakage(
        "mistake 5: the offset of the record, not of the next",
        "app/intake.py",
        "return {place: offset + 1 for place, offset in lasts.items()}",
        "return lasts",
        _UNIT + "the_next_offset_is_that_after_the_last_record",
    ),
    Breakage(
        "a buffer that empties is taken for the end",
        "app/intake.py",
        "                if self._buffer:  # what was there may have gone with its partition\n",
        "                if True:\n",
        _UNIT + "a_buffer_that_empties_while_it_fills_is_not_the_end",
    ),
    Breakage(
        "mistake 6: no rewind after an abort",
        "app/intake.py",
        "        for place, offset in offsets.items():\n            self._seek(place, offset)\n        return offsets\n",
        "        return offsets\n",
        "tests/app/test_state.py::test_an_aborted_transaction_leaves_no_state",
    ),
    Breakage(
        "mistake 7: the whole batch is put aside",
        "app/worker.py",
        "            if trial.error is not None:\n                log.info(",
        "            if trial.error is not None and processor.dead_letter is not None:\n"
        "                outputs += [dead_letter(processor.dead_letter, '', raw, 1, trial.error) for raw in wanted]\n"
        "            elif trial.error is not None:\n                log.info(",
        _OFFSETS + "07_only_the_poison_record_is_put_aside[True]",
    ),
    Breakage(
        "mistake 8: a revoked partition does not wait for its batch",
        "app/intake.py",
        "while self._busy & places and",
        "while not places and",
        _REBALANCES + "08_a_revoked_partition_waits_for_its_batch",
    ),
    Breakage(
        "mistake 9: metadata without a generation is handed out",
        "app/intake.py",
        "        if generation_of(metadata) < 0:\n",
        "        if False:\n",
        _REBALANCES + "09_no_generation_no_commit",
    ),
    Breakage(
        "mistake 10: an old generation ends the application",
        "app/errors.py",
        "        KafkaError.INVALID_GROUP_ID,\n",
        "        KafkaError.INVALID_GROUP_ID,\n        KafkaError.ILLEGAL_GENERATION,\n",
        _REBALANCES + "10_an_old_generation_is_no_reason_to_crash",
    ),
    Breakage(
        "mistake 11: a worker is left alone for as long as it takes",
        "app/intake.py",
        "time.monotonic() >= self._alone_until)",
        "not self._alone_until)",
        _REBALANCES + "11_a_handler_may_take_longer_than_any_timeout",
    ),
    Breakage(
        "mistake 12: what looks fatal is taken for the end",
        "app/errors.py",
        "        KafkaError.INVALID_GROUP_ID,\n",
        "        KafkaError.INVALID_GROUP_ID,\n        *_FENCED_CODES,\n",
        _OUTCOMES + "12_what_looks_fatal_is_recovered",
    ),
    Breakage(
        "mistake 13: a commit without an answer was none",
        "app/exchange.py",
        "        processed.clear()\n        try:\n"
        "            self._attempt(offsets, outputs)\n        except Undone as undone:\n"
        "            if self._is_committed(offsets, self._recover(undone)):\n",
        "        try:\n            self._attempt(offsets, outputs)\n        except Undone as undone:\n"
        "            undone.fenced, undone.renew = False, True\n            self._recover(undone)\n"
        "            self.put_back(processed)\n            if False:\n",
        _OUTCOMES + "13_the_committed_offsets_decide[True]",
    ),
    Breakage(
        "a topic whose creation was cut off ends the application",
        "app/topics.py",
        "        if error.code() not in _PASSING or time.monotonic() > deadline:\n",
        "        if True:\n",
        "tests/app/test_surroundings.py::test_a_topic_is_asked_for_again_where_its_creation_was_cut_off",
    ),
    Breakage(
        "outputs are sent from the last to the first",
        "app/transactions.py",
        "        records.reverse()\n",
        "",
        "tests/unit/app/test_transactions.py::test_records_are_given_to_the_client_once_in_their_order_and_then_let_go",
    ),
    Breakage(
        "offsets of all that was taken are committed though part of it was put back",
        "app/exchange.py",
        "        return self._taken.offsets if len(processed) == self._taken_count else offsets_after(processed)\n",
        "        return self._taken.offsets\n",
        "tests/app/test_mistakes_offsets.py",
    ),
    Breakage(
        "mistake 14: a commit has a second, then it has failed",
        "app/transactions.py",
        "            self._until_done(lambda: self._producer.commit_transaction(STEP_SECONDS))\n",
        "            self._step(lambda: self._producer.commit_transaction(1.0))\n",
        _OUTCOMES + "14_no_timeout_can_be_passed_to_a_commit",
    ),
    Breakage(
        "mistake 15: a transaction is begun when records are taken",
        "app/exchange.py",
        "                self._began_at = time.monotonic()\n",
        "                self._ready_to_send().send([Sent(self._topics[0], None, b'')])\n",
        _REBALANCES + "15_no_transaction_is_open_while_a_handler_runs",
    ),
    Breakage(
        "mistake 16: a sink stores what was aborted",
        "app/settings.py",
        '            "isolation.level": "read_committed",\n',
        '            "isolation.level": "read_uncommitted",\n',
        _OFFSETS + "16_effects_go_through_sinks",
    ),
    Breakage(
        "mistake 16: what a sink writes is not in the transaction of its offsets",
        "app/sinks.py",
        "            self._ready_intake().read_ahead()\n            self._positions.advance(",
        "        with self._engine.begin() as db:\n            self._positions.advance(",
        "tests/app/test_sql.py::test_a_sink_killed_at_every_step_stores_once",
    ),
    Breakage(
        "mistake 17: dead letters go out by themselves",
        "app/worker.py",
        "        self._states.before_commit()\n",
        "        from confluent_kafka import Producer\n\n"
        "        alone = Producer({'bootstrap.servers': self._exchange._cluster.bootstrap})\n"
        "        for letter in [sent for sent in outputs if sent.headers]:\n"
        "            alone.produce(letter.topic, letter.value, letter.key)\n"
        "        alone.flush(30)\n"
        "        outputs = [sent for sent in outputs if not sent.headers]\n"
        "        self._states.before_commit()\n",
        _OFFSETS + "17_dead_letters_are_part_of_the_transaction",
    ),
    Breakage(
        "mistake 18: an id that the broker has forgotten ends the application",
        "app/errors.py",
        "        KafkaError.INVALID_GROUP_ID,\n",
        "        KafkaError.INVALID_GROUP_ID,\n        KafkaError.INVALID_PRODUCER_ID_MAPPING,\n",
        _IDS + "18_an_expired_id_is_made_again",
    ),
    Breakage(
        "mistake 19: the same producer after a disturbance",
        "app/exchange.py",
        "            if producer.is_disturbed:\n",
        "            if False:\n",
        _OUTCOMES + "19_a_late_commit_meets_no_later_transaction",
    ),
]

SEQUENCES = [
    Breakage(
        "a second processor's changelog is not made",
        "app/worker.py",
        "        if topic not in self._partitions:\n            made",
        "        self._partitions[topic] = 1\n        if self._changelog is None:\n            made",
        "tests/app/test_surroundings.py::test_two_processors_have_a_state_each",
    ),
    Breakage(
        "partitions that are added are noticed when a record of a new one comes",
        "app/worker.py",
        "        self._states.check_partitions()\n",
        "",
        "tests/app/test_surroundings.py::test_partitions_that_are_added_under_a_state_end_the_application",
    ),
    Breakage(
        "the partitions of a source are counted when a batch is taken, not before its commit",
        "app/worker.py",
        "        count, outputs, poison = self._processed(raws)\n        self._states.check_partitions()\n",
        "        self._states.check_partitions()\n        count, outputs, poison = self._processed(raws)\n",
        "tests/app/test_surroundings.py::test_partitions_that_were_added_while_a_batch_was_handled_are_noticed",
    ),
    Breakage(
        "a changelog that another worker made meanwhile is taken as it is",
        "app/topics.py",
        "            # another worker was first,",
        "            continue\n            # another worker was first,",
        "tests/app/test_surroundings.py::test_a_changelog_that_another_made_meanwhile_has_to_fit",
    ),
    Breakage(
        "processors have one changelog",
        "app/worker.py",
        '    return f"{app}.{processor}.changelog"\n',
        '    return f"{app}.changelog"\n',
        "tests/app/test_surroundings.py::test_two_processors_have_a_state_each",
    ),
    Breakage(
        "state is not in the transaction",
        "app/worker.py",
        "        outputs.extend(self._states.changes())\n",
        "",
        "tests/app/test_state.py::test_state_survives_restarts_and_lost_files",
    ),
    Breakage(
        "state of an aborted batch goes into the file",
        "app/worker.py",
        "        if outcome is Outcome.COMMITTED:\n            self._states.committed()",
        "        if outcome:\n            self._states.committed()",
        "tests/app/test_state.py::test_an_aborted_transaction_leaves_no_state",
    ),
    Breakage(
        "state of an aborted batch joins the next one",
        "app/worker.py",
        "        self.forget()\n        self._open = {key: (_IN_DOUBT",
        "        self._open = {key: (_IN_DOUBT",
        _SEQUENCES + "state_of_an_aborted_batch_joins_no_later_one",
    ),
    Breakage(
        "state goes on where its partition was away",
        "app/worker.py",
        "        if known is not None and known[0] == assignment:\n",
        "        if known is not None:\n",
        "tests/app/test_state.py::test_state_moves_with_its_partition",
    ),
    Breakage(
        "a value of the state that is changed and not stored is lost",
        "app/state.py",
        "            if self._record.get(key, before) == before and",
        "            if False and",
        "tests/app/test_misuse.py::test_a_value_that_is_changed_and_not_stored_is_refused",
    ),
    Breakage(
        "a restore ends where the open transaction of the last owner begins",
        "app/state.py",
        "asked(lambda: self._all.get_watermark_offsets(",
        "asked(lambda: self._committed.get_watermark_offsets(",
        "tests/app/test_surroundings.py::test_a_restore_waits_for_the_transaction_of_the_last_owner",
    ),
    Breakage(
        "what waits in the buffer is kept when a member goes back",
        "app/intake.py",
        "            self._clear()\n            places = sorted(",
        "            places = sorted(",
        _UNIT + "what_waits_is_dropped_where_a_member_goes_back",
    ),
    Breakage(
        "a deleted changelog is an empty state",
        "app/state.py",
        "        if table.checkpoint > high:\n",
        "        if False:\n",
        "tests/app/test_surroundings.py::test_a_deleted_changelog_is_no_empty_state",
    ),
    Breakage(
        "a restore waits for ever for what is gone",
        "app/state.py",
        "            elif now_at - looked_at > _LOOK_SECONDS:\n",
        "            elif False:\n",
        "tests/app/test_surroundings.py::test_a_changelog_that_goes_while_it_is_read_is_said[True]",
    ),
    Breakage(
        "a restore reads on over errors for ever",
        "app/state.py",
        "        if error is not None and seconds > _ERROR_SECONDS_MAX:\n",
        "        assert seconds < 2, 'for ever'\n        if False:\n",
        "tests/unit/app/test_state.py::test_a_changelog_that_can_not_be_read_ends_a_restore",
    ),
    Breakage(
        "a consumer that can't go back ends the application",
        "app/intake.py",
        "        except KafkaException as failure:  # its assignment is",
        "        except ZeroDivisionError as failure:  # its assignment is",
        _UNIT + "a_consumer_that_can_not_go_back_is_made_anew",
    ),
    Breakage(
        "a checkpoint is taken of what another owns by now",
        "app/worker.py",
        "            if self._assignments.get(place) == assignment:\n",
        "            if assignment in self._assignments.values():\n",
        "tests/app/test_surroundings.py::test_a_checkpoint_is_of_partitions_that_the_commit_speaks_of",
    ),
    Breakage(
        "a thread changes the state when its handler has returned",
        "app/state.py",
        "        if self._state.turn != self._turn:\n",
        "        if False:\n",
        "tests/app/test_misuse.py::test_a_thread_that_keeps_the_context_changes_no_state",
    ),
    Breakage(
        "a sink commits by itself",
        "app/sinks.py",
        "        raise error\n\n    for end in",
        "\n    for end in",
        "tests/app/test_misuse.py::test_a_sink_that_ends_its_transaction_stores_nothing[sqlite-commit]",
    ),
    Breakage(
        "what can't be read of the state is the record's fault",
        "app/state.py",
        "            raise self._useless(error) from error\n\n    @property\n    def checkpoint(",
        "            raise\n\n    @property\n    def checkpoint(",
        "tests/app/test_surroundings.py::test_state_that_can_not_be_read_makes_no_dead_letters",
    ),
    Breakage(
        "what is put back is taken again, though its partition was away",
        "app/intake.py",
        "if self._owned.get(place) == number}",
        "if number}",
        _UNIT + "nothing_is_put_back_under_a_later_assignment",
    ),
    Breakage(
        "a batch's time begins when the worker asks for it",
        "app/intake.py",
        "        deadline = self._first_at + seconds_max\n",
        "        deadline = time.monotonic() + seconds_max\n",
        _UNIT + "the_time_of_a_batch_begins_when_its_first_record_comes",
    ),
    Breakage(
        "a batch ends early however much its commit costs",
        "app/intake.py",
        "        return is_little and self._is_drained and now >= self._early_at\n",
        "        return is_little and self._is_drained\n",
        _UNIT + "a_batch_does_not_end_earlier_than_commits_are_cheap",
    ),
    Breakage(
        "a bulk is cut into small batches",
        "app/intake.py",
        "        return is_little and self._is_drained and now >= self._early_at\n",
        "        return self._is_drained and now >= self._early_at\n",
        _UNIT + "where_much_comes_nothing_ends_early",
    ),
    Breakage(
        "what was aborted is tried again without the interval's wait",
        "app/exchange.py",
        "        self._pace.undone()\n",
        "",
        "tests/unit/app/test_pace.py::test_an_abort_makes_the_next_batch_wait_for_its_time",
    ),
    Breakage(
        "a record that failed is tried again at once where others were committed before it",
        "app/worker.py",
        "            raise poison\n        self._pause()\n",
        "            raise poison\n",
        "tests/unit/app/test_worker.py::test_a_record_that_failed_is_tried_again_after_its_pause",
    ),
    Breakage(
        "a worker that waits for brokers is still left alone",
        "app/intake.py",
        "            self._alone_until = 0.0\n            self._changed.notify_all()\n\n    def settle(",
        "            self._changed.notify_all()\n\n    def settle(",
        _UNIT + "a_worker_with_records_at_hand_is_left_alone",
    ),
    Breakage(
        "what was read before a handover is kept after it",
        "app/intake.py",
        "            if self._is_reassigned:",
        "            if False:",
        _UNIT + "what_was_read_before_a_handover_is_not_kept",
    ),
    Breakage(
        "what was read before a rewind is kept after it",
        "app/intake.py",
        "            if self._rewinds != rewinds:",
        "            if False:",
        _UNIT + "what_was_read_before_a_rewind_is_not_kept",
    ),
    Breakage(
        "what a member that has ended had read is taken",
        "app/intake.py",
        "                self._owned.clear()\n                self._clear()\n",
        "                self._owned.clear()\n",
        _UNIT + "nothing_is_taken_from_a_member_that_has_ended",
    ),
    Breakage(
        "a member stays where its transaction can't be aborted",
        "app/exchange.py",
        "        finally:\n            self.abandon()\n",
        "        self.abandon()\n",
        _ENDINGS + "the_group_is_left_though_the_transaction_can_not_be_aborted",
    ),
    Breakage(
        "a sink whose member ends while it goes back ends the application",
        "app/sinks.py",
        "        except Undone as ended:  #",
        "        except ZeroDivisionError as ended:  #",
        _ENDINGS + "a_sink_begins_anew_where_its_member_ends_while_it_goes_back",
    ),
    Breakage(
        "the intake stands still while a sink's database commits",
        "app/sinks.py",
        "            self._ready_intake().read_ahead()\n",
        "",
        _ENDINGS + "a_sink_reads_ahead_while_its_database_commits",
    ),
    Breakage(
        "a partition that was lost while it was paused comes back paused",
        "app/intake.py",
        "        consumer.resume(targets)",
        "        pass",
        _SEQUENCES + "partitions_that_were_lost_while_paused_are_read_when_they_are_back",
    ),
    Breakage(
        "a sink stores under the epoch that it has now",
        "app/sinks.py",
        "            expected, epoch = held[place]\n",
        "            expected, epoch = self.kept[place]\n",
        _SEQUENCES + "a_sink_does_not_store_under_an_epoch_that_it_was_given_later",
    ),
    Breakage(
        "the owner's epoch is not compared",
        "app/sinks.py",
        "table.c.next_offset == expected, table.c.owner_epoch == epoch)",
        "table.c.next_offset == expected)",
        _SEQUENCES + "the_owners_epoch_alone_stops_a_former_owner",
    ),
    Breakage(
        "an assignment does not raise the owner's epoch",
        "app/sinks.py",
        "values(owner_epoch=table.c.owner_epoch + 1)",
        "values(owner_epoch=table.c.owner_epoch)",
        _SEQUENCES + "the_owners_epoch_alone_stops_a_former_owner",
    ),
    Breakage(
        "assignments of a new member are numbered from one",
        "app/intake.py",
        "dict.fromkeys(places, next(_NUMBERS))",
        "dict.fromkeys(places, 1)",
        _UNIT + "assignments_of_a_member_made_anew_have_new_numbers",
    ),
    Breakage(
        "state goes on after a commit in doubt",
        "app/worker.py",
        "        self._open = {key: (_IN_DOUBT, state) for key, (_, state) in self._open.items()}\n",
        "",
        _SEQUENCES + "state_is_right_where_a_commit_was_in_doubt_while_a_partition_left",
    ),
    Breakage(
        "state of one handler is kept when the next one fails",
        "app/worker.py",
        "                state.drop_record()\n            raise\n",
        "                state.keep_record()\n            raise\n",
        _SEQUENCES + "state_of_one_handler_is_not_kept_when_the_next_one_fails",
    ),
    Breakage(
        "a driver keeps half of a poison record",
        "app/driver.py",
        "            for state in kept:\n                state.drop_record()\n",
        "            for state in kept:\n                state.keep_record()\n",
        "tests/unit/app/test_driver.py::test_a_poison_record_has_no_effect_at_all",
    ),
    Breakage(
        "a batch that is repeated one by one leaves its state",
        "app/worker.py",
        "        for _, state in self._open.values():\n            state.aborted()\n",
        "",
        _SEQUENCES + "state_of_a_batch_that_is_repeated_one_by_one_is_not_kept",
    ),
    Breakage(
        "a checkpoint never gets too old",
        "app/state.py",
        "        if not is_young or not low",
        "        if not low",
        _SEQUENCES + "an_old_checkpoint_is_not_gone_on_from",
    ),
    Breakage(
        "a restore that is cut short makes its checkpoint young",
        "app/state.py",
        "table.write(changes, reached, as_of)",
        "table.write(changes, reached)",
        _SEQUENCES + "a_restore_that_is_cut_short_leaves_an_old_checkpoint_old",
    ),
    Breakage(
        "what the client can't take ends the application",
        "app/transactions.py",
        "        except (TypeError, ValueError, OverflowError) as failure:\n",
        "        except ZeroDivisionError as failure:\n",
        _SEQUENCES + "what_is_no_record_becomes_a_dead_letter[exactly-once]",
    ),
    Breakage(
        "a handler that cancels itself ends the application",
        "app/handlers.py",
        "        except asyncio.CancelledError as error:\n",
        "        except ZeroDivisionError as error:\n",
        _SEQUENCES + "a_handler_that_cancels_itself_has_failed",
    ),
    Breakage(
        "the relay's position is not in its transaction",
        "app/outbox.py",
        "        sent.append(Sent(self._topic, _KEY, msgspec.json.encode(position), (), 0))\n",
        "",
        "tests/app/test_sql.py::test_a_relay_killed_at_every_step_sends_once[sqlite]",
    ),
    Breakage(
        "a start wants the database's lock",
        "app/schema.py",
        '.get(_READS_ONLY) else "IMMEDIATE"',
        '.get("nothing") else "IMMEDIATE"',
        "tests/app/test_sql.py::test_a_start_does_not_wait_for_whoever_writes",
    ),
    Breakage(
        "a missing topic is asked for once",
        "app/topics.py",
        "        if time.monotonic() + pause > deadline:\n",
        "        if True:\n",
        _SEQUENCES + "a_topic_may_come_a_moment_later",
    ),
]

APPLICATIONS = [*MISTAKES, *SEQUENCES]
