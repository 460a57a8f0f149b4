"""Who is calling, whatever object a framework has for them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from metergate.errors import UsageError
from metergate.middleware.callers import Caller, caller_of


class Unfinished:
    """As Starlette's: it has an identity that is not implemented."""

    is_authenticated = True
    username = "ann"

    @property
    def identity(self):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("user", "caller"),
    [
        (None, None),
        ("ann", Caller("ann")),
        (7, Caller(7)),
        (Caller("ann", {"plan": "pro"}), Caller("ann", {"plan": "pro"})),
        ({"sub": "ann", "plan": "pro"}, Caller("ann", {"sub": "ann", "plan": "pro"})),
        ({"id": 7}, Caller(7, {"id": 7})),
        ({"name": "ann"}, Caller(None, {"name": "ann"})),
        (SimpleNamespace(sub="ann", data={"plan": "pro"}), Caller("ann", {"plan": "pro"})),
        (SimpleNamespace(id=7, claims={"plan": "pro"}), Caller(7, {"plan": "pro"})),
        (SimpleNamespace(pk=7, is_authenticated=True), Caller(7)),
        (SimpleNamespace(pk=None, is_authenticated=False), None),
        (SimpleNamespace(id=7, is_authenticated=lambda: False), None),
        (Unfinished(), Caller("ann")),
    ],
)
def test_a_user_object_stands_for_a_caller(user, caller):
    assert caller_of(user) == caller


def test_one_that_says_nothing_of_who_it_is_is_an_error_that_says_what_to_do():
    with pytest.raises(UsageError, match="give Metergate user="):
        caller_of(SimpleNamespace(name="ann"))
