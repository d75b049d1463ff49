"""What falls due in groups: sessions, and the ends of waiting. The broker's one timer asks here (rule D5)."""

from __future__ import annotations

from oncelog.engine.decision import NOTHING, Decision, Level
from oncelog.engine.groups.classic import decide_classic_due, next_due_ms
from oncelog.engine.groups.heartbeats import decide_consumer_due, next_consumer_due_ms
from oncelog.engine.groups.values import ClassicGroup, SessionsBegin, Wake
from oncelog.engine.state import State


def decide_alarm(state: State, group_id: str, now_ms: int) -> Decision:
    """What is due in the group at ``now_ms``; it asks to be woken again if anything else will be."""
    group = state.groups.by_id.get(group_id)
    if group is None:
        return NOTHING
    deadlines = state.groups.deadlines.get(group_id, {})
    due_ms = (
        next_due_ms(group, deadlines) if isinstance(group, ClassicGroup) else next_consumer_due_ms(group, deadlines)
    )
    if due_ms is None:
        return NOTHING
    if due_ms > now_ms:
        return Decision(level=Level.NOTHING, volatile=(Wake(group_id, due_ms),))
    if isinstance(group, ClassicGroup):
        decision = decide_classic_due(state, group, now_ms)
    else:
        decision = decide_consumer_due(state, group, now_ms)
    # What is left may be due earlier than what the decision's own values ask for.
    return decision._replace(volatile=(*decision.volatile, Wake(group_id, now_ms + 1)))


def decide_start(state: State, now_ms: int) -> Decision:
    """After a start of the broker, members go on in the generation they were in; their sessions begin anew."""
    begin = SessionsBegin(now_ms, state.settings.consumer_session_timeout_ms)
    return Decision(level=Level.NOTHING, volatile=(begin,))
