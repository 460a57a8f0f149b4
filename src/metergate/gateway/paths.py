"""Path patterns of routes, in both notations, and the form in which a request's path is compared with them.

``open-api``: ``{name}`` is one segment or a part of one, every other character stands for itself. ``url-pattern``:
the pathname part of the web's URLPattern: ``:name``, ``:name(regex)``, ``(regex)``, ``*``, ``{group}`` and after any of
these ``?``, ``+`` or ``*``; a ``\\`` takes a character literally.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote

PathMode = Literal["open-api", "url-pattern"]
MODES: tuple[PathMode, ...] = ("open-api", "url-pattern")

_SEGMENT = "[^/]+?"
_ANYTHING = ".*"
_LITERAL_KEPT = "%/:@!$&'()*+,;=-._~[]|"

DOT_SEGMENT = re.compile(r"/(?:\.|%2[eE]){1,2}(?=/|\\|\Z)").search
"""A segment ``.`` or ``..``, which clients and servers resolve: what stands before it is not what is asked for."""

_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class PatternError(ValueError):
    """A path that no pattern can be made of: ``message`` and what to write instead, ``fix``."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


class Params(dict[str, str]):
    """Path parameters, decoded. ``raw`` has them as they stand in the URL."""

    __slots__ = ("raw",)

    def __init__(self, raw: Mapping[str, str]) -> None:
        super().__init__((name, unquote(value)) for name, value in raw.items())
        self.raw = raw


@dataclass(frozen=True, slots=True)
class PathPattern:
    """``source`` compiled. ``regex`` has one group per name in ``names`` and matches a whole normal path.

    ``segments`` is set where each segment is a literal or one parameter (None): such paths need no regex at all.
    """

    source: str
    regex: str
    names: tuple[str, ...]
    segments: tuple[str | None, ...] | None

    @property
    def static(self) -> str | None:
        """The one path that matches, where there is just one."""
        if self.segments is None or None in self.segments:
            return None
        return "/" + "/".join(segment for segment in self.segments if segment is not None)


def normal_path(raw: str) -> str:
    """``raw`` with escapes in upper case and unreserved characters decoded (RFC 3986, 6.2.2): ``/%61`` is ``/a``.

    So nobody gets round a route, and its policies, by another spelling of its path. ``%2F`` stays as it is.
    """
    return _ESCAPE.sub(_normal_escape, raw) if "%" in raw else raw


def _normal_escape(escape: re.Match[str]) -> str:
    byte = int(escape[1], 16)
    return chr(byte) if byte in _UNRESERVED else f"%{escape[1].upper()}"


def parse_pattern(path: str, mode: PathMode) -> PathPattern:
    """The pattern of a route's path. Raises PatternError."""
    if not path.startswith("/"):
        raise PatternError(f'The path "{path}" does not begin with a slash.', f'Write "/{path}".')
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise PatternError("The path holds a control character.")
    if DOT_SEGMENT(path):
        raise PatternError("A segment . or .. never reaches a route.", "Write the path that it stands for.")
    if mode == "open-api" and "?" in path:
        raise PatternError("A query never affects matching.", f'Write "{path.partition("?")[0]}".')
    parts = _open_api(path) if mode == "open-api" else _UrlPattern(path).parse()
    names = [part.name for part in parts if part.name is not None]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PatternError(f'The path has two parameters "{twice}".', "Give each a name of its own.")
    regex = "".join(part.regex for part in parts)
    return PathPattern(path, regex, tuple(names), _segments(parts))


@dataclass(frozen=True, slots=True)
class _Part:
    """Text (``name`` None, ``text`` set where it is always there) or a parameter, with its regex."""

    regex: str
    text: str | None = None
    name: str | None = None
    plain: bool = False
    """A parameter that is any text within one segment."""


def _literal(text: str) -> _Part:
    normal = normal_path(quote(text, safe=_LITERAL_KEPT))
    return _Part(re.escape(normal), text=normal)


def _segments(parts: list[_Part]) -> tuple[str | None, ...] | None:
    """Segment by segment, None being a parameter; None altogether where that is not all there is to it."""
    segments: list[str | None] = []
    current: list[str | None] = []
    for part in parts:
        if part.text is None:
            if not part.plain:
                return None
            current.append(None)
            continue
        head, *tail = part.text.split("/")
        if head:
            current.append(head)
        for following in tail:
            segments.append(_segment(current))
            current = [following] if following else []
    segments.append(_segment(current))
    return None if _MIXED in segments else tuple(segments[1:])


_MIXED = "\0"


def _segment(pieces: list[str | None]) -> str | None:
    if len(pieces) == 1:
        return pieces[0]
    if not pieces:
        return ""
    return _MIXED if None in pieces else "".join(piece for piece in pieces if piece is not None)


# --- open-api -------------------------------------------------------------------------------------------------

_BRACES = re.compile(r"\{([^{}]*)\}|([^{}]+)|([{}])")


def _open_api(path: str) -> list[_Part]:
    parts: list[_Part] = []
    for found in _BRACES.finditer(path):
        if found[3]:
            raise PatternError(f'"{found[3]}" in the path has no partner.', "Write {name} for a parameter.")
        if found[2]:
            parts.append(_literal(found[2]))
            continue
        name = found[1].strip()
        if not name or "/" in name:
            raise PatternError(f'"{{{found[1]}}}" in the path is not a parameter.', "Write {name}.")
        parts.append(_Part(f"({_SEGMENT})", name=name, plain=True))
    return parts


# --- url-pattern ----------------------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_MODIFIERS = frozenset("?+*")


class _UrlPattern:
    """Reads one pattern from left to right; after the URLPattern standard, "parse a pattern string"."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._unnamed = 0
        self._parts: list[_Part] = []
        self._text = ""

    def parse(self) -> list[_Part]:
        while self._at < len(self._source):
            self._step()
        self._end_text()
        return self._parts

    def _peek(self) -> str:
        return self._source[self._at : self._at + 1]

    def _step(self) -> None:
        mark = self._peek()
        if mark == "{":
            self._group()
        elif mark in ":(" or mark == "*":
            self._parameter()
        elif mark in "})?+":
            raise self._stray(mark)
        else:
            self._text += self._character()

    def _stray(self, mark: str) -> PatternError:
        return PatternError(
            f'"{mark}" in the path has nothing to stand for there.', f'Write "\\{mark}" for itself.'
        )

    def _character(self) -> str:
        if self._peek() == "\\":
            self._at += 1
            if not self._peek():
                raise PatternError("The path ends in a backslash.", "Remove it.")
        self._at += 1
        return self._source[self._at - 1]

    def _parameter(self) -> None:
        """A parameter outside braces: a slash right before it belongs to it."""
        prefix = ""
        if self._text.endswith("/"):
            prefix, self._text = "/", self._text[:-1]
        name, regex, plain = self._matcher()
        modifier = self._modifier()
        if not modifier:
            self._text += prefix
            self._end_text()
            self._parts.append(_Part(f"({regex})", name=name, plain=plain))
            return
        self._end_text()
        self._parts.append(_Part(_repeated(re.escape(prefix), regex, "", modifier), name=name))

    def _matcher(self) -> tuple[str, str, bool]:
        """The name, regex and plainness of ``:name``, ``:name(regex)``, ``(regex)`` or ``*``."""
        name = None
        if self._peek() == ":":
            found = _NAME.match(self._source, self._at + 1)
            if found is None:
                raise PatternError(
                    '":" in the path is followed by no name.', 'Write ":name", or "\\:" for itself.'
                )
            name, self._at = found[0], found.end()
        if self._peek() == "(":
            regex, plain = self._regex(), False
        elif name is None:
            self._at += 1
            regex, plain = _ANYTHING, False
        else:
            regex, plain = _SEGMENT, True
        if name is None:
            name = str(self._unnamed)
            self._unnamed += 1
        return name, regex, plain

    def _regex(self) -> str:
        depth, start = 0, self._at + 1
        while mark := self._peek():
            if mark == "\\":
                self._at += 1
            depth += (mark == "(") - (mark == ")")
            self._at += 1
            if depth == 0:
                return _checked(self._source[start : self._at - 1])
        raise PatternError('"(" in the path is never closed.', 'Write ")".')

    def _modifier(self) -> str:
        if self._peek() not in _MODIFIERS:
            return ""
        self._at += 1
        return self._source[self._at - 1]

    def _group(self) -> None:
        self._at += 1
        prefix = self._plain_text()
        found = None
        if self._peek() and self._peek() in ":(*":
            found = self._matcher()
        suffix = self._plain_text()
        if self._peek() != "}":
            raise PatternError(
                '"{" in the path is not closed as it should be.', "Write {text}, {text:name} or {text}?."
            )
        self._at += 1
        modifier = self._modifier()
        if found is None:
            self._bare_group(prefix + suffix, modifier)
            return
        name, regex, plain = found
        if not modifier:
            self._text += prefix
            self._end_text()
            self._parts.append(_Part(f"({regex})", name=name, plain=plain))
            self._text = suffix
            return
        self._end_text()
        before, after = _literal(prefix).regex, _literal(suffix).regex
        self._parts.append(_Part(_repeated(before, regex, after, modifier), name=name))

    def _bare_group(self, text: str, modifier: str) -> None:
        if not modifier:
            self._text += text
            return
        self._end_text()
        self._parts.append(_Part(f"(?:{_literal(text).regex}){modifier}"))

    def _plain_text(self) -> str:
        text = ""
        while self._peek() and self._peek() not in "{}:(*":
            if self._peek() in ")?+":
                raise self._stray(self._peek())
            text += self._character()
        return text

    def _end_text(self) -> None:
        if self._text:
            self._parts.append(_literal(self._text))
            self._text = ""


def _repeated(prefix: str, regex: str, suffix: str, modifier: str) -> str:
    """A parameter with a modifier, as the standard's "generate a regular expression" writes it."""
    if modifier == "?":
        return f"(?:{prefix}({regex}){suffix})?"
    if not prefix and not suffix:
        return f"((?:{regex}){modifier})"
    again = "?" if modifier == "*" else ""
    return f"(?:{prefix}((?:{regex})(?:{suffix}{prefix}(?:{regex}))*){suffix}){again}"


def _checked(regex: str) -> str:
    if not regex:
        raise PatternError('"()" in the path is empty.', 'Write "(.*)" for anything.')
    if regex[0] in "?^" or (regex.endswith("$") and not regex.endswith("\\$")):
        raise PatternError(
            f'"({regex})" in the path is not supported.', "Leave ^, $ and (? out; it matches as a whole."
        )
    try:
        with warnings.catch_warnings(action="error"):
            compiled = re.compile(f"(?:{regex})", re.ASCII)
    except (re.error, OverflowError, RecursionError, Warning) as failure:
        raise PatternError(f'"({regex})" in the path is not a regular expression: {failure}.') from None
    if compiled.groups:
        raise PatternError(f'"({regex})" in the path has a group inside.', "Write (?:…) for a group.")
    return regex
