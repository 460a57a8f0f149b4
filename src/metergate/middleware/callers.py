"""Who is calling, as the application or its framework found out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from metergate.errors import UsageError

_NAMES = ("sub", "id", "pk", "identity", "username")
_DATA = ("data", "claims")


class Caller(msgspec.Struct, frozen=True):
    """An authenticated user: ``sub`` names them, ``data`` is what else is known. What ``subjectPath`` starts at."""

    sub: Any
    data: Mapping[str, Any] = msgspec.field(default_factory=dict)


def caller_of(user: Any) -> Caller | None:
    """The caller that a framework's or an application's user object stands for.

    None is nobody, and so is one whose ``is_authenticated`` is false. A text or a number names the user. A mapping names
    them by ``sub`` or ``id``, and is their data. Any other object by its first of ``sub``, ``id``, ``pk``, ``identity``,
    ``username``, and its ``data`` or ``claims``, if that is a mapping, is their data.

    Raises:
        UsageError: it has none of these.
    """
    if user is None or isinstance(user, Caller):
        return user
    if isinstance(user, str | int):
        return Caller(user)
    if isinstance(user, Mapping):
        return Caller(user.get("sub", user.get("id")), user)
    if not _is_authenticated(user):
        return None
    for name in _NAMES:
        found = _read(user, name)
        if found is not None:
            return Caller(found if isinstance(found, str | int) else str(found), _data_of(user))
    raise UsageError(
        f"a user of type {type(user).__name__} has none of {', '.join(_NAMES)}: give Metergate user=, a function that "
        "returns the user's name, or a Caller"
    )


def _is_authenticated(user: Any) -> bool:
    said = _read(user, "is_authenticated")
    return bool(said() if callable(said) else said is not False)


def _data_of(user: Any) -> Mapping[str, Any]:
    found = (_read(user, name) for name in _DATA)
    return next((data for data in found if isinstance(data, Mapping)), {})


def _read(user: Any, name: str) -> Any:
    """An attribute, None where there is none: Starlette's users have some that are not implemented."""
    try:
        return getattr(user, name, None)
    except NotImplementedError:
        return None
