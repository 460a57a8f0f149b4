"""The grammar of expressions.

An expression is a whole string: ``$``, then ``hash:`` where a keyed hash is to be sent in place of the value, then a
path. A key that is no plain name stands in quotes, single or double: ``$response.body.'odd.name'.total``.

========================  ====================================================================
``$request.method``       also ``.path``, ``.bytes``, ``.query.NAME``, ``.headers.NAME``
``$response.status``      also ``.bytes``, ``.headers.NAME``, ``.body.KEY.KEY`` (a JSON body)
``$route.path``           the route's template
``$user.sub``             also ``.data.KEY.KEY``
``$durationMs``           milliseconds, three decimals
``$hash:user.sub``        any of them, hashed
``$$anything``            the text ``$anything``
========================  ====================================================================

Any other string is itself, also one that begins with ``$``: configurations from before there were expressions mean
what they meant. What looks like a slip of the pen is warned of.
"""

from __future__ import annotations

import hmac
import json
import math
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from operator import attrgetter
from typing import Any

import msgspec

from metergate.errors import Finding, error, warning
from metergate.policy.expressions.facts import Facts, Needs
from metergate.policy.fields import WHOLE, closest, shown
from metergate.policy.secret import Secret

HASH_LENGTH = 32
"""So many hexadecimal digits of the HMAC-SHA256 are sent: 128 bits."""

MOST_TEXT = 1024
"""A text of more characters than this counts as missing; hashed, a text may have any length."""

Read = Callable[[Facts], Any]

_ROOTS: dict[str, tuple[str, ...]] = {
    "request": ("method", "path", "bytes", "query", "headers"),
    "response": ("status", "bytes", "headers", "body"),
    "route": ("path",),
    "user": ("sub", "data"),
    "durationMs": (),
}
_PLAIN: dict[tuple[str, ...], str] = {
    ("request", "method"): "method",
    ("request", "path"): "path",
    ("request", "bytes"): "request_bytes",
    ("response", "status"): "status",
    ("response", "bytes"): "response_bytes",
    ("route", "path"): "route",
    ("durationMs",): "duration_ms",
}
_ONE_NAME = {("request", "query"), ("request", "headers"), ("response", "headers")}
_KEYS = {("response", "body"), ("user", "data")}
_CREDENTIALS = frozenset(
    ("authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key", "x-goog-api-key")
)

_EXPRESSION = re.compile(r"\$(hash:)?(request|response|route|user|durationMs)(\..*)?", re.DOTALL)
_SEGMENT = re.compile(r"""\.(?:"([^"]+)"|'([^']+)'|([^.\s"'\[\]*]+))""")
_NEAR = re.compile(r"\$(?!env\(|import\()[A-Za-z]|hash:\s*\$")
_DIGITS = re.compile(r"[0-9]+")


class Expression(msgspec.Struct, frozen=True):
    """A checked expression. ``read`` takes its value from facts: None where it is missing."""

    text: str
    read: Read
    needs: Needs


def read_expression(
    text: str, hash_key: Secret | None = None
) -> tuple[Expression | str | None, list[Finding]]:
    """What a string of a meter's data is, and what is wrong with it (``$`` is the string): an expression, or the text to
    send, or None where one of the findings is an error. ``hash_key`` is what ``hash:`` hashes with."""
    if text.startswith("$$"):
        return text[1:], []
    match = _EXPRESSION.fullmatch(text)
    if match is None or (match[3] is None and match[2] != "durationMs"):
        if text.startswith("$hash:"):
            return None, [error("$", f"{_said(text)} hashes nothing that is known.", _meant(text))]
        return text, [_doubt(text)] if _NEAR.match(text) else []
    path, findings = _path(text, match[2], match[3] or "")
    if match[1] and not hash_key:
        message = f"{_said(text)} needs a key to hash with, and there is none."
        findings.append(error("$", message, 'Write "hashKey": "$env(METERGATE_HASH_KEY)" beside "meter".'))
    elif not match[1] and not findings:
        findings += _credential(text, path)
    if any(finding.severity == "error" for finding in findings):
        return None, findings
    read = _reader(path)
    if match[1] and hash_key:
        read = _hashed(read, hash_key)
    elif path not in _PLAIN or path[-1] == "path":
        read = _bounded(read)
    elif path == ("durationMs",):
        read = _milliseconds
    return Expression(text, read, _needs(path)), findings


def _path(text: str, root: str, rest: str) -> tuple[tuple[str, ...], list[Finding]]:
    """An expression's path, with what is wrong with it."""
    segments: list[str] = []
    position = 0
    while match := _SEGMENT.match(rest, position):
        segments.append(match[1] or match[2] or match[3])
        position = match.end()
    path = (root, *segments)
    if position < len(rest):
        message = f"{_said(text)} cannot be read from {shown(rest[position:])} on."
        return path, [
            error("$", message, "Write keys after dots; put one with odd characters in quotes: .'a b'.")
        ]
    return _known(text, path)


def _known(text: str, path: tuple[str, ...]) -> tuple[tuple[str, ...], list[Finding]]:
    """The path with a header's name in lower case, and whether there is such a thing."""
    root, first, names = path[0], path[:2], path[2:]
    known = _ROOTS[root]
    if path in _PLAIN or path == ("user", "sub"):
        return path, []
    if root == "durationMs" or first in _PLAIN or first == ("user", "sub"):
        whole = ".".join(first if root != "durationMs" else path[:1])
        return path, [
            error("$", f"{_said(text)} goes on behind a value that has no parts.", f'Write "${whole}".')
        ]
    if first not in _ONE_NAME and first not in _KEYS:
        fix = f'Write "$user.data.{".".join(path[1:])}".' if root == "user" else closest(path[1], known)
        return path, [error("$", f'{_said(text)}: "{root}" has no "{path[1]}".', fix)]
    if not names:
        example = {"body": "usage.total_tokens", "data": "plan", "query": "page"}.get(path[1], "content-type")
        message = f"{_said(text)} names all of it; a meter takes one value."
        return path, [
            error("$", message, f'Write "${".".join(first)}.{example}", with the name of what you want.')
        ]
    if first in _ONE_NAME and len(names) > 1:
        fix = f"""Put a name with dots in quotes: "${".".join(first)}.'{".".join(names)}'"."""
        return path, [error("$", f"{_said(text)} has {len(names)} names where one belongs.", fix)]
    if path[1] == "headers":
        return (*first, names[0].lower()), []
    index = next((name for name in names if _DIGITS.fullmatch(name)), None)
    if first in _KEYS and index is not None:
        message = f'{_said(text)} takes "{index}" for a key of an object; an expression looks into no list.'
        return path, [warning("$", message, "Name a value that is in no list.")]
    return path, []


def _credential(text: str, path: tuple[str, ...]) -> list[Finding]:
    if path[1:2] != ("headers",) or path[2] not in _CREDENTIALS:
        return []
    message = f"{_said(text)} would send a credential to OpenMeter in the clear."
    return [error("$", message, f'Write "$hash:{text[1:]}", or leave it out.')]


def _reader(path: tuple[str, ...]) -> Read:
    """The cheapest function that takes this from facts."""
    if path in _PLAIN:
        return attrgetter(_PLAIN[path])
    name, keys = path[2] if len(path) > 2 else "", path[2:]
    match path[:2]:
        case ("request", "query"):
            return lambda facts: facts.query.get(name)
        case ("request", "headers"):
            return lambda facts: facts.request_headers.get(name)
        case ("response", "headers"):
            return lambda facts: facts.response_headers.get(name)
        case ("response", "body"):
            return lambda facts: facts.body.get(keys)
        case ("user", "sub"):
            return lambda facts: facts.user.sub if facts.user is not None else None
        case _:
            return lambda facts: _walked(facts.user.data, keys) if facts.user is not None else None


def _walked(value: Any, keys: tuple[str, ...]) -> Any:
    """As a subject is found: by exact key, through plain mappings only."""
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _needs(path: tuple[str, ...]) -> Needs:
    names = frozenset(path[2:3])
    match path[:2]:
        case ("request", "query"):
            return Needs(query=names)
        case ("request", "headers"):
            return Needs(request_headers=names)
        case ("response", "headers"):
            return Needs(response_headers=names)
        case ("response", "body"):
            return Needs(members=frozenset((path[2:],)))
        case ("request", "bytes"):
            return Needs(request_bytes=True)
        case ("response", "bytes"):
            return Needs(response_bytes=True)
        case _:
            return Needs(duration=path == ("durationMs",))


def _bounded(read: Read) -> Read:
    """Only a single value, and no text without end, goes into an event."""

    def bounded(facts: Facts) -> Any:
        value = read(facts)
        if isinstance(value, str):
            return value if len(value) <= MOST_TEXT else None
        if value is None or isinstance(value, int):
            return value
        return value if isinstance(value, float) and math.isfinite(value) else None

    return bounded


def _milliseconds(facts: Facts) -> float | None:
    duration = facts.duration_ms
    return None if duration is None else round(duration, 3)


def _hashed(read: Read, key: Secret) -> Read:
    """The same value always becomes the same text, and only who has the key can tell which value it was."""
    secret = key.reveal().encode("utf-8", "surrogatepass")

    def hashed(facts: Facts) -> str | None:
        value = read(facts)
        if not isinstance(value, str):
            if not isinstance(value, int | float):
                return None
            value = json.dumps(value)
        digest = hmac.digest(secret, value.encode("utf-8", "surrogatepass"), "sha256")
        return digest.hex()[:HASH_LENGTH]

    return hashed


def _said(text: str) -> str:
    return shown(text)


def _doubt(text: str) -> Finding:
    """What a string is that looks as if an expression was meant."""
    escape = f" Write {shown('$' + text, WHOLE)} to send this text." if text.startswith("$") else ""
    return warning("$", f"{_said(text)} is no expression and is sent as it is.", _meant(text) + escape)


def _meant(text: str) -> str:
    """The expression that a string most likely means."""
    hashed = "hash:" if "hash:" in text else ""
    root, _, rest = text.replace("hash:", "", 1).strip().lstrip("$").partition(".")
    near = get_close_matches(root, _ROOTS, n=1)
    if not near:
        return f"Expressions begin with {', '.join(f'${hashed}{root}' for root in _ROOTS)}."
    path = [near[0], *([rest] if rest else _ROOTS[near[0]][:1])]
    return f"Did you mean {shown('$' + hashed + '.'.join(path), WHOLE)}?"
