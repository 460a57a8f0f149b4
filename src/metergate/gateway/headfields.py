"""Header fields between ASGI's bytes and the gateway's text."""

from __future__ import annotations

from typing import Final

from metergate.gateway.http import HeaderItems
from metergate.gateway.upstream import ORDINARY_CONNECTIONS, without_named

_NOTED: Final = frozenset({"host", "connection", "content-length", "transfer-encoding", "zp-rid"})


def read_headers(raw: list[tuple[bytes, bytes]]) -> tuple[HeaderItems, dict[str, str], str]:
    """Fields as text; those of `_NOTED` by name; and what is wrong with them, if anything.

    What ``connection`` names ends here, before any policy: later it would take away what a policy has set for the upstream.
    """
    items: HeaderItems = []
    noted: dict[str, str] = {}
    wrong = ""
    try:
        for name_bytes, value_bytes in raw:
            name, value = name_bytes.decode(), value_bytes.decode()
            items.append((name, value))
            if name not in _NOTED:
                continue
            if name == "host" and "host" in noted:
                wrong = "A request names its host, in one header."
            elif name == "connection" and "connection" in noted:
                value = f"{noted['connection']},{value}"
            noted[name] = value
    except UnicodeDecodeError:
        return read_headers([(name.decode("latin-1").encode(), _text(value).encode()) for name, value in raw])
    if noted.get("connection", "").lower() not in ORDINARY_CONNECTIONS:
        items = without_named(items, noted["connection"])
        noted = {name: value for name, value in items if name in _NOTED}
    return items, noted, wrong


def _text(value: bytes) -> str:
    """A field's value that may be UTF-8, and ISO 8859-1 otherwise."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def encode_headers(
    items: HeaderItems, request_id: str, left_out: frozenset[str]
) -> list[tuple[bytes, bytes]]:
    """Fields as they go out, and the request's id; names in ``left_out`` are not the gateway's to send."""
    headers = [(name.encode(), value.encode()) for name, value in items if name not in left_out]
    headers.append((b"zp-rid", request_id.encode()))
    return headers
