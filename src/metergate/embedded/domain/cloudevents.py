"""CloudEvents from a request's body: all of it is checked before any of it counts.

Rules: OpenMeter's API description (schema ``Event``) as its request validator applies it, in that validator's
words, so that a client which reads the messages finds what it knows: ``Error at "/3/subject": property
"subject" is missing``. Extra attributes are dropped. The time is cut to whole seconds. The data stay as they were
written, number by number (``1e2`` is no ``100``), without white space and with the last of several equal keys.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec

from metergate.embedded.domain.moments import parse_seconds

SINGLE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
EITHER = "application/json"
CONTENT_TYPES = (SINGLE, BATCH, EITHER)
SPEC_VERSIONS = ("1.0", "0.3")

Text = Annotated[str, msgspec.Meta(min_length=1)]


class InvalidEvents(ValueError):
    """The body does not hold valid events; its text is for the client."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """A checked event. ``time``: whole seconds since 1970, None where the time of receipt counts; ``data``:
    JSON text in one line.
    """

    source: str
    id: str
    type: str
    subject: str
    time: int | None
    data: str | None


class _Incoming(msgspec.Struct, gc=False):
    id: Text
    source: Text
    specversion: Text
    type: Text
    subject: Text
    time: str | None = None
    datacontenttype: Literal["application/json"] | None = None
    dataschema: Text | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


class _StrictIncoming(_Incoming, forbid_unknown_fields=True):
    pass


_decode_one = msgspec.json.Decoder(_Incoming).decode
_decode_many = msgspec.json.Decoder(list[_Incoming]).decode
_decode_one_strictly = msgspec.json.Decoder(_StrictIncoming).decode
_decode_many_strictly = msgspec.json.Decoder(list[_StrictIncoming]).decode
_HUGE = re.compile(rb"[0-9]{309}")
"""May be a number that no float64 holds."""
_decode_data = msgspec.json.Decoder(dict[str, Any] | None).decode
_encode = msgspec.json.Encoder().encode


def read_events(body: bytes, content_type: str, *, strict: bool = False) -> list[Event]:
    """The events in the body, none for an empty batch. Raises InvalidEvents for the first thing wrong.

    Attributes that are not known are dropped, or refused where it is ``strict``.

    The quick way is a typed decoder; whatever it turns down is looked at again by hand, for the message, and
    since it is stricter with JSON than Go (a lone surrogate in a string, a number beyond float64).
    """
    incoming: Sequence[_Incoming]
    try:
        if content_type == SINGLE or (content_type == EITHER and not body.lstrip().startswith(b"[")):
            incoming = [_decode_one_strictly(body) if strict else _decode_one(body)]
        else:
            incoming = _decode_many_strictly(body) if strict else _decode_many(body)
        return [_checked(event, _as_written(event.data)) for event in incoming]
    except (msgspec.DecodeError, ValueError, RecursionError):
        documents = _read_slowly(body, content_type, strict=strict)
        return [_checked(_incoming(document), _text(document.get("data"))) for document in documents]


def _as_written(data: msgspec.Raw) -> str | None:
    """The data in one line, None where there are none. Raises ValueError and others for what only the slow way reads.

    What comes out again as it came in is the usual case and the quick one.
    """
    decoded = _decode_data(data)
    if decoded is None:
        return None
    written, encoded = bytes(data), _encode(decoded)
    same = encoded == written or encoded == msgspec.json.format(written, indent=-1)
    if same and _HUGE.search(encoded) is None:
        return encoded.decode()
    return _text(_load(written))


def _text(data: dict[str, Any] | None) -> str | None:
    """The text of data that ``_load`` has read."""
    try:
        return None if data is None else _encode(data).decode()
    except RecursionError as exception:
        raise InvalidEvents("request body has an error: data are nested too deep") from exception


def _checked(event: _Incoming, data: str | None) -> Event:
    if event.specversion not in SPEC_VERSIONS:
        raise InvalidEvents(f'invalid event: unknown spec version "{event.specversion}"')
    if not is_uri_reference(event.source):
        raise InvalidEvents(f'invalid event: source is not a URI reference: "{event.source}"')
    time = None if event.time is None else parse_seconds(event.time)
    return Event(event.source, event.id, event.type, event.subject, time, data)


@lru_cache(4096)
def is_uri_reference(text: str) -> bool:
    """Whether Go's url.Parse takes it: no control characters, whole %-escapes, no colon in the first segment
    but a scheme's.
    """
    if re.search(r"[\x00-\x1f\x7f]|%(?![0-9a-fA-F]{2})", text):
        return False
    first = re.split(r"[/?#]", text, maxsplit=1)[0]
    return ":" not in first or re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:", first) is not None


def _read_slowly(body: bytes, content_type: str, *, strict: bool) -> Sequence[dict[str, Any]]:
    document = _load(body)
    single = content_type == SINGLE or (content_type == EITHER and not isinstance(document, list))
    if single:
        _check(document, "", strict=strict)
        return [document]
    if not isinstance(document, list):
        raise InvalidEvents(_schema_error("", "value must be an array"))
    for index, item in enumerate(document):
        _check(item, f"/{index}", strict=strict)
    return document


def _load(body: bytes) -> Any:
    """The document, its numbers as they were written."""
    try:
        document = json.loads(
            body, parse_int=_raw_number, parse_float=_raw_number, parse_constant=_refuse_constant
        )
        return _without_surrogates(document)
    except (ValueError, RecursionError) as exception:
        raise InvalidEvents(
            f"request body has an error: failed to decode request body: {exception}"
        ) from exception


def _raw_number(text: str) -> msgspec.Raw:
    """The number as it is written. Who reads it in a list is to find one, so it has to fit: Go knows no larger ones."""
    if math.isinf(float(text)):
        raise ValueError(f"number {text[:20]} is beyond what a float64 holds")
    return msgspec.Raw(text.encode())


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"invalid character in value {name}")


def _without_surrogates(value: Any) -> Any:
    """The same with U+FFFD for every half of a surrogate pair, as Go reads it."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def _incoming(document: dict[str, Any]) -> _Incoming:
    known = {key: document[key] for key in _Incoming.__struct_fields__ if key in document and key != "data"}
    return _Incoming(**known)


def _check(document: Any, path: str, *, strict: bool) -> None:
    """Raise InvalidEvents for the first attribute that is missing or wrong."""
    if not isinstance(document, dict):
        raise InvalidEvents(_schema_error(path, "value must be an object"))
    for name in ("id", "source", "specversion", "type", "subject"):
        if name not in document:
            raise InvalidEvents(_schema_error(f"{path}/{name}", f'property "{name}" is missing'))
        _check_text(document[name], f"{path}/{name}")
    for name in document if strict else ():
        if name not in _Incoming.__struct_fields__:
            raise InvalidEvents(_schema_error(f"{path}/{name}", f'property "{name}" is unsupported'))
    if document.get("dataschema") is not None:
        _check_text(document["dataschema"], f"{path}/dataschema")
    if document.get("datacontenttype") not in (None, EITHER):
        message = f'value is not one of the allowed values ["{EITHER}"]'
        raise InvalidEvents(_schema_error(f"{path}/datacontenttype", message))
    if not isinstance(document.get("data"), dict | None):
        raise InvalidEvents(_schema_error(f"{path}/data", "value must be an object"))
    _check_time(document.get("time"), f"{path}/time")


def _check_text(value: Any, path: str) -> None:
    if not isinstance(value, str):
        raise InvalidEvents(_schema_error(path, "value must be a string"))
    if not value:
        raise InvalidEvents(_schema_error(path, "minimum string length is 1"))


def _check_time(value: Any, path: str) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidEvents(_schema_error(path, "value must be a string"))
    try:
        parse_seconds(value)
    except ValueError as exception:
        message = f'string doesn\'t match the format "date-time": {exception}'
        raise InvalidEvents(_schema_error(path, message)) from exception


def _schema_error(path: str, message: str) -> str:
    where = f'Error at "{path}": ' if path else ""
    return f"request body has an error: doesn't match schema: {where}{message}"
