"""franz-go's own tests of its client, from its Go module: those that talk to a broker, with and without cut connections.

TestTxnEtl and TestGroupETL pass all records through chains of transactional and of plain consumers whose members come and
go; the tests check every record, and the order in every partition.
"""

from __future__ import annotations

import re

import pytest
from tests.support.broker_process import BrokerProcess
from tests.support.suites import IS_LONG, go_test, judge, run

pytestmark = [pytest.mark.client("franz-go"), pytest.mark.needs("go")]

RECORDS = 50_000 if IS_LONG else 10_000
SECONDS_MAX = 900 if IS_LONG else 400

#: The tests of package kgo that need a broker (the others test franz-go alone).
LIVE = [
    "Test848RegexBrokerResolves",
    "TestAddRemovePartitions",
    "TestClient_Produce",
    "TestClient_ProduceLargeMessages",
    "TestConsumeMaxDecompressBatchBytes",
    "TestConsumeRegex",
    "TestConsumeTopicRetrieval",
    "TestConsumeTopicRetrieval_Many",
    "TestDirectPartitionPurge",
    "TestGroupETL",
    "TestGroupSimple",
    "TestHookPollStart",
    "TestIssue1034",
    "TestIssue325",
    "TestIssue337",
    "TestIssue434",
    "TestIssue523",
    "TestIssue648",
    "TestIssue769",
    "TestIssue810",
    "TestIssue831",
    "TestIssue865",
    "TestIssueFetchLargerThanBrokerMaxReadBytes",
    "TestIssueProduceSyncManualPartitionNegativeDoesNotPanic",
    "TestPauseIssue489",
    "TestPauseIssueOct2023",
    "TestPing",
    "TestPooling",
    "TestTxnEtl",
    "TestUnknownGroupOffsetFetchPinned",
]
ETL = ["TestTxnEtl", "TestGroupETL"]
#: They wait long for an internal topic, which there is none of (see FINDINGS.md); a short run leaves them out.
SLOW = {"TestConsumeRegex", "Test848RegexBrokerResolves"}

RESULT = re.compile(r"^\s*--- (PASS|FAIL|SKIP): (\S+)", re.MULTILINE)


def kgo(broker: BrokerProcess, names: list[str], *, has_chaos: bool) -> tuple[list[str], dict[str, str]]:
    """Tests that passed, and those that failed or left themselves out."""
    tests = go_test("github.com/twmb/franz-go", "pkg/kgo")
    command = [
        str(tests / "tests"),
        "-test.v",
        "-test.timeout",
        f"{SECONDS_MAX}s",
        "-test.run",
        f"^({'|'.join(names)})$",
    ]
    variables = {
        "KGO_SEEDS": broker.bootstrap,
        "KGO_TEST_RECORDS": str(RECORDS),
        "KGO_TEST_RF": "1",
        "KGO_LOG_LEVEL": "none",
        "KGO_TEST_CHAOS": str(int(has_chaos)),
    }
    ran = run(command, SECONDS_MAX + 30, cwd=tests / "module" / "pkg" / "kgo", variables=variables)
    found = RESULT.findall(ran.out)
    assert found, str(ran)
    why = {name: f"{verdict}\n{_said(ran.out, name)}" for verdict, name in found if verdict != "PASS"}
    return [name for verdict, name in found if verdict == "PASS"], why


def _said(out: str, name: str) -> str:
    """What a test says of itself: the lines after its name."""
    return "\n".join(re.findall(rf"^=== NAME  {re.escape(name)}\n((?:    .*\n)+)", out, re.MULTILINE))[-3000:]


def test_all_that_needs_a_broker(own_broker: BrokerProcess) -> None:
    """P1-P3, T6, O1-O6, R1-R6 as franz-go meets them; it speaks the second protocol (TV2), in groups of both kinds."""
    names = [name for name in LIVE if IS_LONG or name not in SLOW]
    judge("franz-go", *kgo(own_broker, names, has_chaos=False))


def test_chains_over_connections_that_are_cut(own_broker: BrokerProcess) -> None:
    """D4, P1: every connection dies after about a second, in the middle of whatever it does."""
    passed, failed = kgo(own_broker, ETL, has_chaos=True)
    if _is_impatient(failed):
        passed, failed = kgo(own_broker, ETL, has_chaos=True)
    judge("franz-go-chaos", passed, failed)


def _is_impatient(failed: dict[str, str]) -> bool:
    """Whether nothing failed but commits in the middle of a rebalance.

    A broker must refuse those with REBALANCE_IN_PROGRESS, as Apache Kafka does; kgo's test takes it for a failure, and on a
    busy machine a member is now and then as slow as that. Then it is played again, once.
    """
    leaves = [name for name in failed if not any(other.startswith(f"{name}/") for other in failed)]
    return bool(leaves) and all("unable to commit: REBALANCE_IN_PROGRESS" in failed[name] for name in leaves)
