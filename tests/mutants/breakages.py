"""Small breakages of the engine, the lane, the handlers and the journal, each of one rule. The checks must notice every one.

A breakage replaces one piece of source that is there exactly once; if it is not there any more, that is an error: whoever
changes the code moves the breakage along.
"""

from __future__ import annotations

from typing import NamedTuple


class Breakage(NamedTuple):
    """``before`` becomes ``after`` in ``file`` below src/oncelog. ``test``: the one that notices it; else any of the checks."""

    name: str
    file: str
    before: str
    after: str
    test: str = ""


_TRANSACTIONS = "engine/transactions.py"
_PRODUCERS = "engine/producers.py"
_PARTITIONS = "engine/partitions.py"
_STATE = "engine/state.py"
_READING = "engine/reading.py"
_OFFSETS = "engine/groups/offsets.py"
_LANE = "broker/lane.py"
_COMPACTION = "engine/compaction.py"
_API = "broker/apis/transactions.py"
_END_EVERYWHERE = "_end_everywhere(state, before, _epoch_after(before), commit=False, now_ms=now_ms)"

_BUMPED_END = (
    "    after, id_rows = {}\n    rows, batches = _end_everywhere(state, transaction, {}, commit={}, now_ms=now_ms)\n"
)

IDEMPOTENCE = [
    Breakage("P1 window of one", _PRODUCERS, "(*before.window[1 - DUPLICATE_WINDOW_BATCHES :], batch)", "(batch,)"),
    Breakage("P1 window of six", "model/limits.py", "WINDOW_BATCHES: Final = 5", "WINDOW_BATCHES: Final = 6"),
    Breakage(
        "P1 a repetition is looked for by its first sequence only",
        _PRODUCERS,
        "if batch.sequence_first == first and batch.sequence_last == sequence_after(first, header.offset_delta_last):",
        "if batch.sequence_first == first:",
    ),
    Breakage(
        "P1 the sequence is checked before repetitions are looked for",
        _PARTITIONS,
        "        repeated = duplicate_of(row, header)\n",
        "        check_sequence(row, header, first_must_be_zero=False)\n        repeated = duplicate_of(row, header)\n",
    ),
    Breakage(
        "P1 a repetition is written again",
        _PARTITIONS,
        "        repeated = duplicate_of(row, header)\n",
        "        repeated = None\n",
    ),
    Breakage("P2 a batch of an old epoch is taken", _PRODUCERS, "if header.producer_epoch < row.epoch:", "if False:"),
    Breakage("P3 a gap in the sequence is taken", _PRODUCERS, "if sequence != expected:", "if sequence < expected:"),
    Breakage(
        "P3 wrap at 2**31 - 1", "model/ids.py", "SEQUENCE_MODULUS: Final = 2**31", "SEQUENCE_MODULUS: Final = 2**31 - 1"
    ),
    Breakage(
        "P3 a new epoch keeps the window", _PRODUCERS, "before is None or before.epoch != epoch:", "before is None:"
    ),
    Breakage(
        "P6 plain batches inside a transaction",
        _PARTITIONS,
        "elif producer_id in log.open:",
        "elif False:",
    ),
    Breakage(
        "P7 TV1 needs no AddPartitions",
        _PARTITIONS,
        "if version < IMPLICIT_ADD_VERSION:\n        code",
        "if version < 0:\n        code",
    ),
    Breakage(
        "P8 a producer with an open transaction expires",
        _PRODUCERS,
        "return row.transaction_first_offset < 0 and now_ms",
        "return now_ms",
    ),
    Breakage("D6 any first sequence", _PRODUCERS, "if first_must_be_zero and sequence != 0:", "if False:"),
    Breakage(
        "D6 ages of producer ids are known to a minute only",
        _STATE,
        "step_ms = min(_MARK_MS, self.settings.producer_expiration_ms // _MARKS_IN_EXPIRATION)",
        "step_ms = _MARK_MS",
    ),
]

TRANSACTIONS = [
    Breakage(
        "T2 no epoch bump",
        _TRANSACTIONS,
        "    session, rows = _bumped(state, before)\n    end_rows",
        "    session, rows = Session(before.producer_id, before.epoch), ()\n    end_rows",
    ),
    Breakage(
        "T2 the marker does not fence",
        _TRANSACTIONS,
        "    end_rows, batches = " + _END_EVERYWHERE,
        "    end_rows, batches = " + _END_EVERYWHERE.replace("_epoch_after(before)", "before.epoch"),
    ),
    Breakage(
        "T2 what is open is forgotten, not aborted",
        _TRANSACTIONS,
        "    return Decision((*rows, row, *end_rows), batches, reply=session)\n",
        "    return Decision((*rows, row, *end_rows), reply=session)\n",
    ),
    Breakage(
        "T2 epochs end at 32767", "model/ids.py", "EPOCH_MAX: Final = Epoch(32766)", "EPOCH_MAX: Final = Epoch(32767)"
    ),
    Breakage(
        "T3 a repeated KIP-360 call bumps again",
        _TRANSACTIONS,
        "        if caller.epoch == before.last_epoch:\n            return current\n",
        "        if caller.epoch == before.last_epoch:\n            return None\n",
    ),
    Breakage(
        "T3 any epoch may go on",
        _TRANSACTIONS,
        "if caller == current:",
        "if caller.producer_id == current.producer_id:",
    ),
    Breakage(
        "T4 an old epoch may add partitions", _PARTITIONS, "    if transaction.epoch != epoch:\n", "    if False:\n"
    ),
    Breakage(
        "T5 the opposite end is answered as done",
        _TRANSACTIONS,
        "    if transaction.state is _ENDED[commit] or (",
        "    if transaction.state in _ENDED.values() or (",
    ),
    Breakage(
        "T6 a repeated end of the other kind is answered as done",
        _TRANSACTIONS,
        "    elif transaction.state is _ENDED[commit]:\n",
        "    elif transaction.state in _ENDED.values():\n",
    ),
    Breakage(
        "T6 the epoch before is always a retry",
        _TRANSACTIONS,
        '    return is_just_before and transaction.fence_reason != ""\n',
        "    return is_just_before\n",
    ),
    Breakage(
        "T6 no bump at the end",
        _TRANSACTIONS,
        _BUMPED_END.format("_bumped(state, transaction)", "_epoch_after(transaction)", "commit"),
        _BUMPED_END.format("session, ()", "transaction.epoch", "commit"),
    ),
    Breakage(
        "T7 a timeout does not bump",
        _TRANSACTIONS,
        _BUMPED_END.format("_bumped(state, transaction)", "_epoch_after(transaction)", "False"),
        _BUMPED_END.format("Session(transaction.producer_id, transaction.epoch), ()", "transaction.epoch", "False"),
    ),
    Breakage(
        "T7 the time runs from the last partition added",
        _PARTITIONS,
        "        transaction.started_ms if is_open else now_ms,\n",
        "        now_ms,\n",
    ),
    Breakage(
        "T8 a marker leaves the epoch",
        _PRODUCERS,
        "return Producer(log, producer_id, epoch, (), _NO_TRANSACTION, now_ms, 0)",
        "return Producer(log, producer_id, before.epoch if before else epoch, (), _NO_TRANSACTION, now_ms, 0)",
    ),
    Breakage(
        "T11 an operator commits",
        _API,
        "            if marker.transaction_result:\n",
        "            if False:\n",
    ),
    Breakage(
        "D1 one partition gets no marker",
        _TRANSACTIONS,
        "for log_id in transaction.logs if log_id in state.logs",
        "for log_id in transaction.logs[:3] if log_id in state.logs",
    ),
    Breakage(
        "D7 an abort of nothing fails",
        _TRANSACTIONS,
        "(transaction.state is TransactionState.EMPTY and not commit)",
        "False",
    ),
    Breakage(
        "D8 a timeout is a fence",
        _TRANSACTIONS,
        "        if _is_not_replaced(before, caller):\n            return None\n",
        "",
    ),
]

LATE_REQUESTS = [
    Breakage(
        f"D4 the fence of {role.lower()} is off",
        "engine/connections.py",
        "and connection < seen[1][role]:",
        f"and connection < seen[1][role] and role is not Role.{role}:",
    )
    for role in ("COORDINATOR", "OFFSETS", "PRODUCE")
] + [
    Breakage(
        "D4 the coordinator hears closed connections",
        "broker/call.py",
        "        if not self.peer.is_gone():\n",
        "        if self.api_key or not self.peer.is_gone():\n",
    ),
    Breakage(
        "D4 Produce hears closed connections",
        "broker/apis/produce.py",
        "        if call.is_abandoned():\n",
        "        if False:\n",
    ),
    Breakage(
        "D4 a zombie's connection shuts the living out",
        "broker/apis/produce.py",
        "    if transaction is not None and session == (transaction.producer_id, transaction.epoch):\n",
        "    if transaction is not None:\n        session = Session(transaction.producer_id, transaction.epoch)\n",
    ),
]

READERS = [
    Breakage(
        "R1 the last stable offset is ignored", _READING, "return log.stable_offset if is_committed else", "return"
    ),
    Breakage(
        "R1 the newest open transaction sets the stable offset",
        _STATE,
        "max(next(iter(self.open.values())), self.offset_start)",
        "max(next(reversed(self.open.values())), self.offset_start)",
    ),
    Breakage(
        "R2 the aborted list is unsorted",
        _READING,
        "    found.sort(key=lambda transaction: transaction[1])\n",
        "",
    ),
    Breakage(
        "R2 the aborted list ends one too early",
        _READING,
        "aborted.offset_first < end:",
        "aborted.offset_first < end - 1:",
    ),
    Breakage(
        "R2 the aborted list begins one too late",
        _READING,
        "bisect_left(log.aborted, offset, key",
        "bisect_left(log.aborted, offset + 1, key",
    ),
    Breakage(
        "R2 the aborted list stops at the first that ends beyond",
        _READING,
        "        if aborted.stable_offset >= end:\n",
        "        if aborted.offset_marker >= end:\n",
    ),
    Breakage(
        "R3 a commit's marker says abort",
        "model/batch.py",
        "CONTROL_COMMIT if commit else CONTROL_ABORT)",
        "CONTROL_ABORT)",
    ),
]

OFFSETS = [
    Breakage(
        "O1 a pending offset is visible",
        _OFFSETS,
        '        """A pending offset replaces the producer\'s one before."""\n',
        "        self.put(row.offset)\n",
    ),
    Breakage("O1 offsets are kept at an abort", _OFFSETS, "        if commit:\n", "        if True:\n"),
    Breakage(
        "O1 an older offset replaces a newer one",
        _OFFSETS,
        "if before is None or before.version < row.offset.version:",
        "if True:",
    ),
    Breakage(
        "O1 pending offsets outlive their transaction",
        _OFFSETS,
        "            of_group.pop(row.producer_id, None)\n",
        "",
    ),
    Breakage(
        "O2 member and generation are not checked",
        "engine/groups/members.py",
        "        _check_classic(group, member_id, generation, instance_id, is_transactional=True)\n",
        "        return\n",
    ),
    Breakage(
        "O4 unstable offsets are told as stable",
        "engine/groups/commits.py",
        "if require_stable and state.offsets",
        "if False and state.offsets",
    ),
    Breakage(
        "O6 TV1 needs no AddOffsets",
        _TRANSACTIONS,
        "    if version < 5:\n        code = ErrorCode.TRANSACTION_ABORTABLE if version == 4",
        "    if version < 0:\n        code = ErrorCode.TRANSACTION_ABORTABLE if version == 4",
    ),
]

DURABILITY = [
    Breakage("D2 replies leave before the sync", _LANE, "elif level is _SYNCED:", "elif False:"),
    Breakage(
        "D2 replies leave before the write",
        _LANE,
        "        elif position <= self.storage.position_written:\n",
        "        elif True:\n",
    ),
    Breakage(
        "D2 readers see what is not synced",
        _LANE,
        "                self._shown.append((position, state.visible_after(rows, batches)))\n",
        "                state.settle_visible(state.visible_after(rows, batches))\n",
    ),
    Breakage(
        "D3 replies leave before readers see",
        _LANE,
        "        if shown:\n            self.state.settle_visible(shown)\n        waiting",
        "        if shown:\n            self._loop.call_soon(lambda: self.state.settle_visible(shown))\n        waiting",
    ),
    Breakage(
        "D2 open transactions outlive the machine's restart",
        _TRANSACTIONS,
        "    open_ids = [row.id for row in state.transactions.values() if row.state is TransactionState.ONGOING]\n",
        "    open_ids: list[str] = []\n",
    ),
    Breakage(
        "D2 transactions lost whole are forgotten",
        "broker/broker.py",
        "            for decision in transactions.decide_all_doubted(self.state):\n",
        "            for decision in ():\n",
    ),
    Breakage(
        "law 1 recovery uses its own time",
        _LANE,
        "[_replayed(batch) for batch in entry.batches], decided_ms)",
        "[_replayed(batch) for batch in entry.batches], self.clock_ms())",
    ),
    Breakage(
        "law 1 a checkpoint leaves pending offsets out",
        _OFFSETS,
        "                yield from of_producer.values()\n",
        "                yield from ()\n",
    ),
    Breakage(
        "law 1 a checkpoint forgets what is open",
        _STATE,
        "        if row.transaction_first_offset >= 0:\n            log.open",
        "        if False:\n            log.open",
    ),
    Breakage(
        "law 2 rows and batches in two entries",
        _LANE,
        "            position = self.storage.append(_entry(rows, batches, now_ms))\n",
        "            if rows and batches:\n                self.storage.append(_entry(rows, (), now_ms))\n"
        "            position = self.storage.append(_entry(() if batches else rows, batches, now_ms))\n",
    ),
    Breakage(
        "law 7 a failed write is survived",
        _LANE,
        "        except StorageError as error:\n            self.failed(error)\n            return\n",
        "        except StorageError:\n            return\n",
    ),
    Breakage(
        "a torn entry is accepted",
        "storage/entries.py",
        " or crc32c(view[at + _FRAME.size : end]) != crc:",
        ":",
    ),
    Breakage(
        "an entry of the file's former life is accepted",
        "storage/entries.py",
        "    if tag_found != tag or end",
        "    if end",
    ),
]

COMPACTION = [
    Breakage(
        "R1 what is open is compacted",
        _COMPACTION,
        "    bound = min(log.stable_offset, log.high_watermark)\n",
        "    bound = log.high_watermark\n",
    ),
    Breakage(
        "R2 an abort marker goes before its entry of the aborted list",
        _COMPACTION,
        "return (batch, timestamp_max) if self._is_listed(header.base_offset) else None",
        "return None",
    ),
    Breakage(
        "R2 an entry of the aborted list goes before its records",
        _STATE,
        "[aborted for aborted in log.aborted if aborted.offset_marker >= row.offset]\n\n    def _put_group_deleted",
        "[aborted for aborted in log.aborted if aborted.offset_first >= row.offset]\n\n    def _put_group_deleted",
    ),
    Breakage(
        "R2 what was aborted supersedes what was committed",
        _COMPACTION,
        "        if header.is_control or self._is_aborted(header):\n",
        "        if header.is_control:\n",
    ),
    Breakage(
        "R2 what a producer commits after an abort goes with it",
        _COMPACTION,
        "return at >= 0 and header.base_offset < ranges[at][1]",
        "return at >= 0",
    ),
    Breakage(
        "compaction: a tombstone goes before its time",
        _COMPACTION,
        "is_past = is_swept and has_horizon and header.timestamp_base <= self._certain_ms",
        "is_past = is_swept and has_horizon",
    ),
    Breakage(
        "compaction: a tombstone's time begins before its older values have gone",
        _COMPACTION,
        "is_swept = header.offset_next < self._swept_before and self._is_whole",
        "is_swept = header.offset_next <= self._swept_before and self._is_whole",
    ),
    Breakage(
        "compaction: a tombstone goes though an older value may be in what can't be opened",
        _COMPACTION,
        "            self._is_whole = False\n",
        "            self._is_whole = True\n",
    ),
    Breakage(
        "compaction: the log's end falls",
        _COMPACTION,
        "        if header.base_offset >= self._last_offset:\n            return batch, timestamp_max\n",
        "",
    ),
    Breakage(
        "compaction: the last batch of a sweep is not looked at again",
        _COMPACTION,
        "self.offset_first = max(log.offset_compacted - 1, log.offset_start)",
        "self.offset_first = max(log.offset_compacted, log.offset_start)",
    ),
    Breakage(
        "compaction: what is too much for the map is compacted",
        _COMPACTION,
        "            return False\n        header = read_header(batch)\n",
        "            self._newest.clear()\n        header = read_header(batch)\n",
    ),
    Breakage(
        "compaction: what the disk has changed is written again",
        "storage/settling.py",
        "            if self._are_sound is not None:\n                ends",
        "            if False:\n                ends",
        "tests/contracts/test_compacting.py::test_what_the_disk_has_changed_is_not_written_again",
    ),
    Breakage(
        "compaction: records without a key go",
        _COMPACTION,
        "        if record.key is None:\n            return False\n",
        "        if record.key is None:\n            return True\n",
    ),
    Breakage(
        "compaction: times are relative to the old base",
        "model/rewriting.py",
        "records = _shifted(records, count, timestamp_base - horizon_ms)",
        "records = _shifted(records, count, 0)",
    ),
    Breakage(
        "compaction: lz4 blocks depend on each other", "model/rewriting.py", "x18\\x60\\x40\\x82", "x18\\x40\\x40\\xc0"
    ),
    Breakage(
        "D2 after a start the older of two segment files counts",
        "storage/segments.py",
        "key=lambda item: -item[1]",
        "key=lambda item: item[1]",
    ),
    Breakage(
        "D2 what begins before its log's start is not written again",
        "storage/settling.py",
        "stretch.offset_next > plan.log.offset_start",
        "stretch.offset >= plan.log.offset_start",
    ),
    Breakage(
        "D2 a file that is being compacted is written again",
        "storage/segments.py",
        "or segment.number in self.pinned or segment.number in self.damaged:",
        "or segment.number in self.damaged:",
    ),
    Breakage(
        "R4 a segment file ends in a hole",
        "storage/compacting.py",
        "if written >= _FILE_BYTES and filling.offset_next == stretch.offset_next:",
        "if written >= _FILE_BYTES:",
    ),
    Breakage(
        "R4 a read in a gap begins with the batch before it",
        "storage/compacting.py",
        "            new.offsets.append(self.offset_next)\n",
        "            new.offsets.append(chunk.offsets[at])\n",
    ),
    Breakage(
        "D2 a compacted file counts before the checkpoint names it",
        "storage/settling.py",
        "for new in (file, round_.compacted) if new is not None",
        "for new in (file,) if new is not None",
    ),
]

STORAGE = [
    Breakage(
        "D2 a segment file is not synced",
        "storage/writing.py",
        "        os.fsync(self._descriptor)\n",
        "",
    ),
    Breakage(
        "D2 the names of segment files are not synced",
        "storage/settling.py",
        "    sync_folder(folder.segments)\n",
        "",
    ),
    Breakage(
        "D2 a checkpoint does not wait for the journal",
        "storage/settling.py",
        "            sync_file(path)\n",
        "            continue\n",
    ),
    Breakage(
        "D2 a checkpoint does not name the new segment file",
        "storage/settling.py",
        "numbers = round_.kept + [new.number for new in (file, round_.compacted) if new is not None]",
        "numbers = round_.kept",
    ),
    Breakage(
        "D2 a checkpoint is renamed before it is synced",
        "storage/checkpoint.py",
        "        os.fsync(file.fileno())\n",
        "",
    ),
    Breakage(
        "D2 a journal file too many is given up",
        "storage/settling.py",
        "give_up_before(round_.moved_below >> PLACE_BITS)",
        "give_up_before((round_.moved_below >> PLACE_BITS) + 1)",
    ),
    Breakage(
        "D2 the names of journal files are not synced",
        "storage/files.py",
        "        if is_folder:\n            sync_folder(self._folder.journal)\n",
        "",
    ),
    Breakage(
        "D2 what a failed sync was to write is not written again",
        "storage/files.py",
        "        if not self._folder.is_boot_kept():\n",
        "        if False:\n",
    ),
    Breakage(
        "D2 a failed sync is forgotten by the next start",
        "storage/folder.py",
        "            (self.path / _BOOT_FILE).unlink(missing_ok=True)\n",
        "            return\n",
    ),
    Breakage(
        "D2 a sync that fails at the stop is not told",
        "storage/files.py",
        "                if self._untold is not None:\n",
        "                if False:\n",
    ),
    Breakage(
        "D2 a failed sync is noted only when the loop hears of it",
        "storage/files.py",
        "                self._folder.forget_boot(failure)\n                self._failure = self._untold = failure\n",
        "                self._failure = self._untold = failure\n",
    ),
    Breakage(
        "D2 a settling that fails at the stop is forgotten",
        "storage/settling.py",
        "            self._folder.forget_boot(error)\n            round_.outcome = error\n",
        "            round_.outcome = error\n",
    ),
    Breakage(
        "D2 a restart of the machine is not noticed",
        "storage/folder.py",
        'return now != b"" and (self.path / _BOOT_FILE).read_bytes() == now',
        "return True",
    ),
    Breakage(
        "P9 acks=1 does not wait",
        "broker/apis/produce.py",
        "        broker.reply_at(level, position, call, produce_reply(call.version, topics))\n",
        "        level = Level.NOTHING if request.acks == 1 else level\n"
        "        broker.reply_at(level, position, call, produce_reply(call.version, topics))\n",
    ),
]

BREAKAGES = [*IDEMPOTENCE, *TRANSACTIONS, *LATE_REQUESTS, *READERS, *OFFSETS, *DURABILITY, *STORAGE, *COMPACTION]
