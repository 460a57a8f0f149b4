"""The watermark never runs ahead of the truth, and reaches it when everything is settled."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metergate.entitlements.usage.watermark import NEVER, Watermark

STEPS = st.lists(
    st.tuples(st.sampled_from(["record", "settle", "look", "start"]), st.integers(0, 2)), max_size=60
)


@given(STEPS)
def test_all_that_was_recorded_before_it_is_settled(steps):
    recorded, settled = [[]], [0]
    watermark = Watermark(lambda: [(len(times), done) for times, done in zip(recorded, settled, strict=True)])
    for now, (step, number) in enumerate(steps):
        number = min(number, len(recorded) - 1)
        if step == "record":
            recorded[number].append(now)
        elif step == "settle":
            settled[number] = min(settled[number] + 1, len(recorded[number]))
        elif step == "start":
            recorded.append([])
            settled.append(0)
        else:
            before = watermark.before
            assert watermark.advance(now) == watermark.before >= before
            unsettled = [time for times, done in zip(recorded, settled, strict=True) for time in times[done:]]
            assert all(time >= watermark.before for time in unsettled)
    settled[:] = map(len, recorded)
    assert watermark.advance(1000) == 1000


def test_while_recording_goes_on_it_follows_a_look_behind():
    counts = [(1, 0)]
    watermark = Watermark(lambda: counts)
    assert watermark.advance(10) == NEVER
    counts = [(3, 1)]
    assert watermark.advance(20) == 10, "all that was there at 10 is settled"
    counts = [(9, 3)]
    assert watermark.advance(30) == 20
