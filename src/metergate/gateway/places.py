"""Where in a URL a template's expression stands, and what its value may look like there.

What a client can choose may fill its place and change nothing around it: not the host, not the parameters of the
query, not the segments of the path before it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from metergate.gateway.http import Request
from metergate.gateway.paths import Params

Value = Callable[[Request], str]
"""One expression's text for a request, not yet fit for its place."""


@dataclass(frozen=True, slots=True)
class Expression:
    """``name`` is what it reads (``params``, ``query``, ``host``, ``user``…), ``key`` which of them.

    ``encoded``: a function of the template made a component of it.
    """

    value: Value
    name: str
    key: str = ""
    encoded: bool = False


class UnsafeValueError(ValueError):
    """A request's value would lead somewhere else than the template says: answer 400 and ask no upstream."""


class Place(enum.Enum):
    """Where in the URL an expression stands, which decides how its value may look.

    START: before anything else; a whole URL may stand there. HOST: all of an authority; a host and a port. LABEL: a
    part of an authority; one label, so that nobody chooses the domain. PATH: a slash is a slash, the rest is encoded.
    QUERY: everything is encoded.
    """

    START = enum.auto()
    HOST = enum.auto()
    LABEL = enum.auto()
    PATH = enum.auto()
    QUERY = enum.auto()


URL_KEPT = "%/:@!$&'()*+,;=-._~?#[]|"
_UNRESERVED = "-_.!~*'()"  # what encodeURIComponent keeps beside letters and digits


def quoted(text: str, safe: str) -> str:
    """Percent-encoded; half a surrogate pair, which a token's claims may hold, becomes ``?``."""
    return quote(text, safe, errors="replace")


def encode_uri_component(text: str) -> str:
    """Percent-encoded but for letters, digits and ``- _ . ! ~ * ' ( )``; as in JavaScript."""
    return quoted(text, _UNRESERVED)


_LIKE = {
    "url": "http://0/0",
    "origin": "http://0",
    "protocol": "http:",
    "pathname": "/0",
    "search": "?",
}
"""How the value of a name looks, to tell the place of what follows it."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_HOST = re.compile(r"[A-Za-z0-9._\-]*(?::[0-9]{0,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{0,5})?").fullmatch
_LABEL = re.compile(r"[A-Za-z0-9_\-]*").fullmatch
_CLEAN = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/%?\[\]|]*").fullmatch
_IN_PATH = "/:@!$&'()*+,;=-._~"
_UNENCODED = re.compile(r"[A-Za-z0-9/:@!$&'()*+,;=\-._~]*").fullmatch
_ENCODED = re.compile(r"(?:[A-Za-z0-9/:@!$&'()*+,;=\-._~]|%[0-9A-Fa-f]{2})*").fullmatch


def placed(pieces: list[str | Expression]) -> tuple[str | Value, ...]:
    """The pieces, each value made fit for its place; text side by side is joined."""
    parts: list[str | Value] = []
    written = ""  # with a "0" for what only a request knows
    for index, piece in enumerate(pieces):
        if isinstance(piece, str):
            written += piece
            if parts and isinstance(parts[-1], str):
                parts[-1] += piece
            else:
                parts.append(piece)
            continue
        following = pieces[index + 1] if index + 1 < len(pieces) else "/"
        parts.append(_fit(piece, _place(written, following)))
        written += _LIKE.get(piece.name, "0")
    return tuple(parts)


def _place(written: str, following: str | Expression) -> Place:
    if "?" in written or "#" in written:
        return Place.QUERY
    if not written:
        return Place.START
    scheme = _SCHEME.match(written)
    if scheme is None or "/" in written[scheme.end() :]:
        return Place.PATH
    ends = following[0] in "/?:#" if isinstance(following, str) else following.name in ("pathname", "search")
    return Place.HOST if written.endswith(("://", "@")) and ends else Place.LABEL


def _fit(expression: Expression, place: Place) -> Value:
    """The expression's value so that it can change nothing but its own place."""
    value, name = expression.value, expression.name
    if name == "search" or (name in ("url", "origin", "protocol", "host") and place is Place.START):
        return lambda request: _clean(value(request))
    if place is Place.QUERY:
        return value if expression.encoded else lambda request: encode_uri_component(value(request))
    if name == "pathname" and not expression.encoded:
        return lambda request: _clean(value(request)) if request.raw_path[:1] == "/" else _refuse()
    if name == "hostname" or place is Place.HOST:
        return lambda request: text if _HOST(text := value(request)) else _refuse()
    if name == "params" and not expression.encoded:
        return _path_param(value, expression.key, place)
    if place is Place.LABEL:
        return lambda request: text if _LABEL(text := value(request)) else _refuse()
    return value if expression.encoded else lambda request: quoted(value(request), _IN_PATH)


def _path_param(value: Value, key: str, place: Place) -> Value:
    """As the client wrote it, so that its %2F stays one; encoded where a policy of the project put it there."""

    def in_path(request: Request) -> str:
        params = request.params
        if type(params) is Params:
            text = params.raw.get(key, "")
            return text if _ENCODED(text) else quoted(text, safe=_IN_PATH + "%")
        text = value(request)
        return text if _UNENCODED(text) else quoted(text, safe=_IN_PATH)

    if place is Place.PATH:
        return in_path

    def in_host(request: Request) -> str:
        text = in_path(request)
        return text if _LABEL(text) or text[:1] == "/" else _refuse()

    return in_host


def _clean(text: str) -> str:
    return text if _CLEAN(text) else quoted(text, safe=URL_KEPT.replace("#", ""))


def _refuse() -> str:
    raise UnsafeValueError("the request would choose the upstream host")
