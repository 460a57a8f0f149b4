"""What the HTTP client's exceptions say, for logs and for choosing an answer."""

from __future__ import annotations

from pyreqwest.exceptions import ConnectError, DecodeError, PyreqwestError


def causes(failure: PyreqwestError) -> list[str]:
    """Why, from the outside in. Without the one that says the URL: there may be a credential in that."""
    found = [cause["message"] for cause in (getattr(failure, "details", None) or {}).get("causes") or ()]
    return [cause for cause in found if not cause.startswith("error sending request for url")]


def reason(failure: PyreqwestError) -> str:
    """The innermost cause, which says the most."""
    return (causes(failure) or [str(failure.args[0] if failure.args else failure)])[-1]


def is_connecting(failure: PyreqwestError) -> bool:
    """Whether there was no connection at all."""
    return any("(Connect)" in cause for cause in causes(failure))


def ended_without_a_word(failure: PyreqwestError) -> bool:
    """Whether the connection was there and ended before the answer's first byte."""
    return isinstance(failure, ConnectError) and not is_connecting(failure)


def unreadable(message: str) -> PyreqwestError:
    """An answer that HTTP does not allow, though the HTTP client took it."""
    return DecodeError(message, {"causes": []})
