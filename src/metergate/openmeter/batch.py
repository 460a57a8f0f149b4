"""May these subjects use these features: OpenMeter's batch query, one request for a hundred of them.

``POST /api/v3/openmeter/entitlement-access/query`` takes customer keys and subject keys alike, resolves them
exactly, and answers with access but without balances. It is marked private and unstable and older servers lack
it: `query_access` tells "not offered" apart from an outage, so that who asks goes on without it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

import msgspec

from metergate.openmeter.problems import Lack
from metergate.openmeter.values import decode_json, misshapen

MOST_SUBJECTS = 100
MOST_FEATURES = 100
LONGEST_KEY = 256

NOT_OFFERED = frozenset({400, 401, 403, 404, 405, 412, 415, 422, 501})
"""Statuses with which a server says that it has no such endpoint, not for our key, or not as we know it. Whether
the key is refused altogether is for the other reads to find out."""

_ENDPOINT = "POST /api/v3/openmeter/entitlement-access/query"
_PATH = "/api/v3/openmeter/entitlement-access/query?page%5Bsize%5D=100"


class Post(Protocol):
    """Sends a JSON body; a status in ``absent`` is a lack."""

    def __call__(
        self, path: str, body: bytes, endpoint: str, *, absent: frozenset[int]
    ) -> Awaitable[bytes | Lack]: ...


class BatchAccess(msgspec.Struct, frozen=True):
    """An answer: whether each subject has access to each feature. ``unknown`` are those that no customer is
    found for. Subjects in neither were not answered for.
    """

    access: dict[str, dict[str, bool]]
    unknown: frozenset[str] = frozenset()


async def query_access(post: Post, subjects: Sequence[str], features: Sequence[str]) -> BatchAccess | None:
    """Ask for at most `MOST_SUBJECTS` and `MOST_FEATURES`; None where the server does not offer it.

    Raises:
        OpenMeterThrottled, OpenMeterOutage: see `metergate.openmeter.problems`.
    """
    query = {"customer": {"keys": list(subjects)}, "feature": {"keys": list(features)}}
    body = await post(_PATH, msgspec.json.encode(query), _ENDPOINT, absent=NOT_OFFERED)
    return None if isinstance(body, Lack) else read_batch(body, _ENDPOINT)


def read_batch(body: bytes, endpoint: str) -> BatchAccess:
    """The answer of the batch query. Raises OpenMeterOutage for anything that is none."""
    document = decode_json(body, endpoint)
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise misshapen(endpoint, "has no list of data")
    access: dict[str, dict[str, bool]] = {}
    for result in document["data"]:
        try:
            found = msgspec.convert(result, _Result)
        except msgspec.ValidationError:
            raise misshapen(endpoint, "has a result that is not as documented") from None
        features = {feature: value.has_access for feature, value in found.features.items()}
        access.update(dict.fromkeys(found.matched, features))
    return BatchAccess(access, frozenset(_unknown(document.get("errors"))))


def _unknown(errors: Any) -> list[str]:
    found = [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    names = [error.get("customer") for error in found if error.get("code") == "customer_not_found"]
    return [name for name in names if isinstance(name, str)]


class _Access(msgspec.Struct):
    has_access: bool


class _Result(msgspec.Struct):
    matched: list[str]
    features: dict[str, _Access]
