"""Answers in CSV, as Go's writer writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from starlette.responses import Response

from metergate.embedded.domain.moments import format_rfc3339


def csv_response(name: str, lines: Iterable[Sequence[str]]) -> Response:
    """The lines as a file for download; its Content-Type has no charset, as OpenMeter's."""
    headers = {"Content-Type": "text/csv", "Content-Disposition": f"attachment; filename={name}.csv"}
    content = "".join(",".join(map(_field, line)) + "\n" for line in lines)
    return Response(content, headers=headers)


def to_second(value: datetime) -> str:
    """A time without its fraction."""
    return format_rfc3339(value.replace(microsecond=0))


def _field(value: str) -> str:
    """Quoted where Go's writer does so, which also looks at a leading space and at carriage returns."""
    if value == r"\." or value[:1].isspace() or any(character in value for character in ',"\r\n'):
        return '"' + value.replace('"', '""') + '"'
    return value
