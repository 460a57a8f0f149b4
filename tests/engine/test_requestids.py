"""Request ids: every one a UUID of its own, in whatever process and thread it is asked for."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from uuid import RFC_4122, UUID

from metergate.engine.requestids import new_request_id

MANY = 1_000


def drawn(count: int) -> list[str]:
    return [new_request_id() for _ in range(count)]


def test_every_id_is_a_random_uuid_in_its_usual_form():
    for text in drawn(MANY):
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text)
        assert (UUID(text).version, UUID(text).variant) == (4, RFC_4122)


def test_no_id_comes_twice_also_where_threads_ask_at_once():
    with ThreadPoolExecutor(4) as threads:
        found = [text for part in threads.map(drawn, [MANY] * 8) for text in part]
    assert len(set(found)) == len(found) == 8 * MANY


def test_every_bit_that_may_be_random_is():
    numbers = [UUID(text).int for text in drawn(MANY)]
    ever_set = ever_clear = 0
    for number in numbers:
        ever_set |= number
        ever_clear |= ~number
    assert (ever_set & ever_clear & (1 << 128) - 1).bit_count() == 122


def test_a_forked_child_does_not_repeat_its_parent_s_ids():
    new_request_id()  # from now on there are some left over, which the child must not hand out
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, "\n".join(drawn(200)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        theirs = pipe.read().decode().split("\n")
    assert os.waitpid(child, 0)[1] == 0
    assert len(theirs) == 200
    assert not set(theirs) & set(drawn(400))
