"""What a request says, read and checked as OpenMeter's request validator does, in its words.

A parameter that does not fit answers 400 ``parameter "limit" in query has an error: …``, a body ``request body has an
error: …``. JSON answers are made here as well.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Container, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from metergate.embedded.api.problems import InvalidParameter, Problem
from metergate.embedded.domain.moments import parse_rfc3339

MAX_BODY = 16 * 1024 * 1024
"""Bytes of a request's body, but for events."""

_MANY = 1_000
"""Rows that take some 10 ms."""
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_MEMBER = re.compile(r"\[([^\[\]]+)\]")
_PLACE = re.compile(r"`\$\.?([^`]+)`$")
"""Where in the body msgspec found what it says, at the end of its message."""
T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


def parameter_error(name: str, message: str, place: str = "query") -> InvalidParameter:
    """The problem for a parameter that does not fit."""
    return InvalidParameter(name, message, place)


def body_error(message: str, field: str = "body") -> InvalidParameter:
    """The problem for a body that does not fit, or the field of it that does not."""
    return InvalidParameter(field, message, "body", detail=f"request body has an error: {message}")


def single(request: Request, name: str) -> str | None:
    """The value of a parameter that may be given once, None when it is not given."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise parameter_error(name, f"multiple values for single value parameter '{name}'")
    return values[0] if values else None


def members(request: Request, name: str, *, bare: bool = False) -> dict[str, str]:
    """A parameter that is an object, ``?name[key]=value``. What is not written so is refused, not passed over,
    unless it is the ``bare`` name, as OpenMeter's Python SDK writes it (``?name={'key': 'value'}``).
    """
    found: dict[str, str] = {}
    for given, value in request.query_params.multi_items():
        if not given.startswith(f"{name}[") and (bare or given != name):
            continue
        match = _MEMBER.fullmatch(given, len(name))
        if match is None:
            raise parameter_error(name, f"malformed: {given}; write {name}[key]=value")
        if match[1] in found:
            raise parameter_error(name, f"multiple values for {given}")
        found[match[1]] = value
    return found


def text(request: Request, name: str, *, longest: int | None = None) -> str | None:
    """The parameter, None when it is not given. With ``longest``: 1 to so many characters."""
    value = single(request, name)
    if value is None or longest is None:
        return value
    if not value:
        raise parameter_error(name, "minimum string length is 1")
    if len(value) > longest:
        raise parameter_error(name, f"maximum string length is {longest}")
    return value


def texts(request: Request, name: str) -> tuple[str, ...] | None:
    """All values of a parameter that may be repeated (``?subject=a&subject=b``), None when it is not given."""
    values = request.query_params.getlist(name)
    return tuple(values) if values else None


def moment(request: Request, name: str) -> datetime | None:
    """A parameter that is an RFC 3339 date-time."""
    value = single(request, name)
    if value is None:
        return None
    try:
        return parse_rfc3339(value)
    except ValueError as exception:
        raise parameter_error(
            name, f'string doesn\'t match the format "date-time": {exception}'
        ) from exception


def integer(request: Request, name: str, default: int, *, least: int, most: int) -> int:
    """A whole number between two bounds."""
    value = single(request, name)
    if value is None:
        return default
    if _INTEGER.fullmatch(value) is None:
        raise parameter_error(name, f"value {value}: an invalid integer")
    number = int(value)
    if number < least:
        raise parameter_error(name, f"number must be at least {least}")
    if number > most:
        raise parameter_error(name, f"number must be at most {most}")
    return number


def boolean(request: Request, name: str, default: bool = False) -> bool:
    """``true`` or ``false``."""
    value = single(request, name)
    if value not in (None, "true", "false"):
        raise parameter_error(name, f"value {value}: an invalid boolean")
    return default if value is None else value == "true"


def choice(request: Request, name: str, allowed: Sequence[str]) -> str | None:
    """One of a few words, None when it is not given."""
    value = single(request, name)
    if value is not None and value not in allowed:
        words = ",".join(f'"{word}"' for word in allowed)
        raise parameter_error(name, f"value is not one of the allowed values [{words}]")
    return value


async def body_bytes(request: Request, most: int = MAX_BODY) -> bytes:
    """The body. Raises 413 when it is longer than ``most`` bytes.

    What is too much is read and forgotten before that, as a client in the middle of sending would see a broken
    connection and no answer; beyond eight times the bound it has to put up with that.
    """
    chunks = []
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length <= most:
            chunks.append(chunk)
        else:
            chunks.clear()
            if length > 8 * most:
                break
    if length > most:
        raise Problem(f"request body is longer than {most} bytes", status=413)
    return b"".join(chunks)


async def large_response(make: Callable[[], Response], rows: int) -> Response:
    """What ``make`` gives; where it is to hold many rows it is made on a thread, so that the event loop stays free."""
    return await asyncio.to_thread(make) if rows > _MANY else make()


def media_type(request: Request) -> str:
    """The Content-Type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(request: Request, convert: Callable[[bytes], T]) -> T:
    """The body read by ``convert``, usually ``msgspec.json.Decoder(Type).decode``; ValueErrors of it are a
    400.
    """
    if media_type(request) != "application/json":
        given = request.headers.get("content-type", "")
        raise body_error(f'header Content-Type has unexpected value "{given}"', "Content-Type")
    content = await body_bytes(request)
    try:
        return convert(content)
    except msgspec.ValidationError as exception:
        place = _PLACE.search(str(exception))
        field = place[1] if place else "body"
        raise body_error(f"doesn't match schema: {exception}", field) from exception
    except (ValueError, RecursionError) as exception:
        raise body_error(f"failed to decode request body: {exception}") from exception


def without_nulls(convert: Callable[[bytes], T], but: Container[str] = ()) -> Callable[[bytes], T]:
    """The same for a body in which no property may be null, ``but`` for these: what is left out is left out."""

    def read(content: bytes) -> T:
        value = convert(content)
        for name, given in msgspec.json.decode(content, type=dict[str, msgspec.Raw]).items():
            if bytes(given) == b"null" and name not in but:
                raise msgspec.ValidationError(f"Value is not nullable - at `$.{name}`")
        return value

    return read


def json_response(value: Any, status: int = 200) -> Response:
    """The value as JSON; structs and dataclasses are taken as they are."""
    return Response(_encode(value), status, media_type="application/json")
