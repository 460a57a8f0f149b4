"""JSON as people write it: comments, trailing commas, a byte order mark. Errors name line, column, JSON path.

Comments and trailing commas are blanked, never cut, so that every position the strict parser names is the
author's own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from metergate.policy.fields import child

_STRING = r'"(?:[^"\\\n\r]|\\.)*"'
_COMMENT = re.compile(rf"{_STRING}|//[^\n\r]*|/\*.*?\*/", re.DOTALL)
_COMMA = re.compile(rf"{_STRING}|,(?=\s*[}}\]])")
_TOKEN = re.compile(rf"{_STRING}|[{{}}\[\],:]")
_NOT_NEWLINE = re.compile(r"[^\n\r]")
_DEEPEST = 100
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsoncError(ValueError):
    """Text that is not JSON. ``line`` and ``column`` count from 1, ``path`` is that of the value at fault."""

    def __init__(self, message: str, text: str, offset: int) -> None:
        self.message = message
        self.line, self.column = position(text, offset)
        self.path = _path_at(text, offset)
        super().__init__(f"line {self.line}, column {self.column}: {message}")


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A key that an object has twice: the first value is lost, as in every JSON parser."""

    path: str
    line: int
    column: int


def position(text: str, offset: int) -> tuple[int, int]:
    """Line and column, from 1, of a character offset."""
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def parse(text: str) -> Any:
    """The value that JSON with comments and trailing commas holds.

    Raises:
        JsoncError: not JSON, a number that no float holds (also ``NaN``), half a surrogate pair, nested
            more than 100 deep.
    """
    strict = _blank_commas(_blank_comments(text))
    _bound_depth(strict)
    try:
        value = json.loads(strict, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise JsoncError(_reason(error, strict), strict, error.pos) from None
    except ValueError as error:  # ours below, and Python's bound on the digits of an integer
        raise JsoncError(str(error).partition(";")[0], strict, 0) from None
    if _SURROGATE.search(strict):
        _refuse_half_pairs(strict)
    return value


def _bound_depth(text: str) -> None:
    """Whoever walks the value may recurse without a second thought."""
    if text.count("[") + text.count("{") <= _DEEPEST:
        return
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in "{[") - (token[0] in "}]")
        if depth > _DEEPEST:
            raise JsoncError(f"nested more than {_DEEPEST} deep", text, token.start())


def duplicates(text: str) -> list[Duplicate]:
    """Every key that occurs a second time in its object; ``text`` has to be valid."""
    strict = _blank_commas(_blank_comments(text))
    seen: list[set[str]] = []
    found: list[Duplicate] = []
    for event, path, key, offset in _walk(strict, len(strict)):
        if event == "open":
            seen.append(set())
        elif event == "close":
            seen.pop()
        elif event == "end":
            break
        elif key in seen[-1]:
            found.append(Duplicate(child(path, key), *position(strict, offset)))
        else:
            seen[-1].add(key)
    return found


def _blank(text: str) -> str:
    return _NOT_NEWLINE.sub(" ", text)


def _blank_comments(text: str) -> str:
    blanked = _COMMENT.sub(lambda found: found[0] if found[0][0] == '"' else _blank(found[0]), text)
    return " " + blanked[1:] if blanked.startswith("\ufeff") else blanked


def _blank_commas(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        if found[0] != ",":
            return found[0]
        before = found.start() - 1
        while before >= 0 and text[before] in " \t\n\r":
            before -= 1
        return "," if before < 0 or text[before] in "[{,:" else " "

    return _COMMA.sub(one, text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON: write a number or null")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:20]} is too large")
    return number


def _refuse_half_pairs(text: str) -> None:
    for found in re.finditer(_STRING, text):
        try:
            json.loads(found[0]).encode()
        except UnicodeEncodeError:
            raise JsoncError("\\u escape of half a surrogate pair", text, found.start()) from None


def _reason(error: json.JSONDecodeError, text: str) -> str:
    if text.startswith("/*", error.pos):
        return "a comment that never ends: close it with */"
    if text[error.pos : error.pos + 1] == "'":
        return 'strings stand in double quotes: "…"'
    if error.pos >= len(text.rstrip()):
        return (
            "the text ends too early: a bracket or brace is not closed"
            if text.strip()
            else "the file is empty"
        )
    return error.msg[0].lower() + error.msg[1:]


def _walk(text: str, end: int) -> Iterator[tuple[str, str, str, int]]:
    """What stands before ``end``: (open, close, key or end; path of the container; key; its offset)."""
    paths: list[str] = []  # of the containers that are open
    here: list[int | str | None] = []  # key or index that each of them is at
    string = ("", 0)
    for token in _TOKEN.finditer(text, 0, end):
        mark = token[0]
        if mark[0] == '"':
            string = (mark, token.start())
        elif mark in "{[":
            paths.append("$" if not paths else _below(paths[-1], here[-1]))
            here.append(0 if mark == "[" else None)
            yield "open", paths[-1], "", token.start()
        elif not paths:
            continue
        elif mark in "}]":
            yield "close", paths.pop(), "", token.start()
            here.pop()
        elif mark == ":" and not isinstance(here[-1], int):
            key = _unquoted(string[0])
            here[-1] = key
            yield "key", paths[-1], key, string[1]
        elif mark == ",":
            here[-1] = here[-1] + 1 if isinstance(here[-1], int) else None
    yield "end", _below(paths[-1], here[-1]) if paths else "$", "", end


def _below(path: str, key: int | str | None) -> str:
    return path if key is None else child(path, key)


def _unquoted(string: str) -> str:
    try:
        return str(json.loads(string)).encode(errors="replace").decode()
    except ValueError:
        return string.strip('"')


def _path_at(text: str, offset: int) -> str:
    path = "$"
    for event, at, _, _ in _walk(text, offset):
        if event == "end":
            path = at
    return path
