"""The batches that the known traces send are what a broker takes for one record of a transaction."""

from __future__ import annotations

import pytest
from tests.support.batches import batches

from oncelog.model.batch import check_batch
from oncelog.verify.known_table import markdown
from oncelog.verify.raw import batch
from oncelog.verify.stage import Played


@pytest.mark.parametrize("value", [b"", b"x", b"y" * 100, b"z" * 10_000])
def test_a_batch_of_one_record(value: bytes) -> None:
    data = batch(value, producer_id=7, epoch=2, sequence=5)
    header = check_batch(data, bytes_max=1 << 20)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 2, 5)
    (read,) = batches(data)
    assert read.is_transactional
    assert not read.is_control
    assert [record.value for record in read.records] == [value]


def test_the_table_of_known_traces() -> None:
    played = [Played(name="a trace", protocol="TV1", source="KIP-1", verdict="holds", detail="nothing")]
    assert markdown(played).splitlines()[-1] == "| a trace | TV1 | KIP-1 | holds | nothing |"
