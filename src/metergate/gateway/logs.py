"""The gateway's log on stderr: a JSON object per line for machines, a short line per entry for a person at a terminal.

A JSON line has ``time`` (RFC 3339, UTC, milliseconds), ``level``, ``logger``, ``message``, then what the entry brought
with it (``request_id``, ``route``, …), and ``exception``: the traceback as one string. What looks like a credential is
``***``, in messages, in values and in tracebacks.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, TextIO

import msgspec

from metergate.gateway.timestamps import timestamp

LogFormat = Literal["auto", "json", "text"]

HIDDEN = "***"

_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_MOST_DEPTH = 6
_LONGEST_TEXT = 32_768

# After a scheme or a name of a secret, or recognisable by itself.
_CREDENTIALS = re.compile(
    r"""
    (?P<scheme> \b(?:bearer|basic)\s+ ) [A-Za-z0-9._~+/=\-]{4,}
    | (?P<name> ["']? \b (?: api[-_]?key | authorization | x-api-key | (?:client[-_]?|shared[-_]?)?secret | password
              | passwd | (?:access|refresh|id)[-_]?token | cookie | set-cookie ) ["']? \s* [:=] \s* )
      (?! ["'] \$env\( )  # the name of a variable, which a finding shows
      (?:(?:bearer|basic)\s+)? (?: "[^"]*" | '[^']*' | [^\s,;&"'}\])]+ )
    | (?P<prefix> \bmg_ ) [A-Za-z0-9]{8,}
    | (?P<jwt> \beyJ )[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]*
    | (?P<url> ://[^/\s:@]* : )[^/\s@]+(?=@)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SECRET_NAME = re.compile(
    r"api[-_]?key$|^authorization$|^proxy-authorization$|^x-api-key$|secret$|password$|passwd$"
    r"|(?:^|[-_])(?:access|refresh|id|bearer|auth)?[-_]?token$|^(?:set-)?cookie$|^credentials?$",
    re.IGNORECASE,
)


def _may_have_credentials(text: str) -> bool:
    """Whether a closer look is needed: most text has nothing that every credential has."""
    if ":" in text or "=" in text:
        return True
    folded = text.lower()
    return "mg_" in folded or "eyj" in folded or "bearer" in folded or "basic" in folded


def redact(text: str) -> str:
    """``text`` without what looks like a credential; the name or scheme in front of it stays."""
    return _CREDENTIALS.sub(_hidden, text) if _may_have_credentials(text) else text


@lru_cache(maxsize=512)
def is_secret(name: str) -> bool:
    """Whether the value under that name must not be seen."""
    return _SECRET_NAME.search(name) is not None


def _hidden(match: re.Match[str]) -> str:
    return f"{match[match.lastgroup] if match.lastgroup else ''}{HIDDEN}"


def plain(value: Any, name: str = "", depth: int = 0) -> Any:
    """``value`` as JSON can hold it, without secrets: those under a secret's name, and those inside of text."""
    if value is not None and name and is_secret(name):
        return HIDDEN
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, str):
        return _cut(redact(value))
    if depth >= _MOST_DEPTH:
        return HIDDEN if name else "…"
    if isinstance(value, Mapping):
        return {str(key): plain(item, str(key), depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, "", depth + 1) for item in value]
    return _cut(redact(str(value)))


def _cut(text: str) -> str:
    if len(text) > _LONGEST_TEXT:
        text = text[:_LONGEST_TEXT] + "…"
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """What an entry brought beside its message."""
    return {
        name: plain(value, name)
        for name, value in record.__dict__.items()
        if name not in _OWN_FIELDS and value is not None
    }


def message_of(record: logging.LogRecord) -> str:
    """The entry's message; one whose arguments do not fit is shown as it stands instead of raising."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args!r}"


class JsonFormatter(logging.Formatter):
    """An entry as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": timestamp(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": plain(message_of(record)),
        }
        for name, value in extras(record).items():
            line.setdefault(name, value)
        if trace := self._trace(record):
            line["exception"] = trace
        return msgspec.json.encode(line).decode()

    def _trace(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return str(plain("\n".join(parts)))


class TextFormatter(JsonFormatter):
    """An entry as a person reads it: ``12:00:00 warning  message  name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        parts = [f"{clock} {record.levelname.lower():8} {plain(message_of(record))}"]
        parts += [f"{name}={_shown(value)}" for name, value in extras(record).items()]
        trace = self._trace(record)
        return "  ".join(parts).replace("\r", "\\r").replace("\n", "\\n") + (f"\n{trace}" if trace else "")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that a second `configure_logging` replaces it and leaves what the operator added."""


def configure_logging(
    level: str = "info",
    format: LogFormat = "auto",  # noqa: A002  # the option's name
    stream: TextIO | None = None,
) -> None:
    """Send every logger's entries of at least ``level`` to ``stream`` (stderr). May be called again.

    ``auto`` is text where the stream is a terminal, JSON elsewhere. Raises ValueError for an unknown level or format.
    """
    stream = stream or sys.stderr
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"{level!r} is not a log level: use debug, info, warning, error or critical")
    if format not in ("auto", "json", "text"):
        raise ValueError(f"{format!r} is not a log format: use auto, json or text")
    as_text = format == "text" or (format == "auto" and stream.isatty())
    handler = _Handler(stream)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    root = logging.getLogger()
    root.handlers = [other for other in root.handlers if not isinstance(other, _Handler)] + [handler]
    root.setLevel(number)
    logging.captureWarnings(True)
