"""What an OpenMeter holds, over its API: counts by a dimension, single events by id."""

from __future__ import annotations

import contextlib
import http.client
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec


def count_by(url: str, meter: str, dimension: str) -> Counter[str]:
    """How many events a COUNT meter has for each value of one of its ``groupBy`` dimensions, over all time.

    Args:
        url: where OpenMeter is, without ``/api/v1``.
        meter: slug or id.
        dimension: a key of the meter's ``groupBy``. With the request id as dimension this tells lost and
            doubled usage request by request, in one question.

    Raises OSError when OpenMeter is not there, ValueError on an answer that is not 200.
    """
    rows = _get(url, f"/api/v1/meters/{quote(meter, safe='')}/query", {"groupBy": dimension})["data"]
    counted: Counter[str] = Counter()
    for row in rows:
        counted[row["groupBy"][dimension] or ""] += int(row["value"])
    return counted


def meter_total(url: str, meter: str) -> float:
    """The value of a meter over all time and all subjects; 0 where nothing was counted yet. Raises as `count_by`."""
    rows = _get(url, f"/api/v1/meters/{quote(meter, safe='')}/query", {})["data"]
    return float(sum(row["value"] for row in rows))


def events_with(url: str, id_part: str) -> list[dict[str, Any]]:
    """The events, 100 at most, whose id holds that text, newest first, as CloudEvents. Raises as `count_by`."""
    return [item["event"] for item in _get(url, "/api/v1/events", {"id": id_part})]


def every_event(url: str, since: str) -> Iterator[dict[str, Any]]:
    """All events that it lists from that time (RFC 3339) on, newest first, as CloudEvents. Raises as `count_by`."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    query = {"limit": "100", "filter": msgspec.json.encode({"time": {"$gte": since}}).decode()}
    with contextlib.closing(connection):
        while True:
            page = _ask(connection, "/api/v2/events", query)
            yield from (item["event"] for item in page["items"])
            if not (cursor := page.get("nextCursor")):
                return
            query["cursor"] = cursor


def _get(url: str, path: str, query: dict[str, str]) -> Any:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    with contextlib.closing(connection):
        return _ask(connection, path, query)


def _ask(connection: http.client.HTTPConnection, path: str, query: dict[str, str]) -> Any:
    connection.request("GET", f"{path}?{urlencode(query)}" if query else path)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise ValueError(f"GET {path} answered {response.status}: {body[:500]!r}")
    return msgspec.json.decode(body)
