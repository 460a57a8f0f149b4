"""Whose entitlements are these, and what are they: the reads of OpenMeter that a gateway decides with.

A policy's *subject* may be the key of a customer, one of a customer's subject keys, or (on servers from
before customers) just a subject. OpenMeter has an endpoint for each and none for all, so a subject is
looked for in this order, and a key match beats a subject match as in OpenMeter itself:

1. ``GET /api/v1/customers/{key}/access``: the usual case, one request, all features with balances.
2. ``GET /api/v1/customers?subject=…``: whose subject key is it? Then 1. by that customer's id. The filter
   is a partial match without case ("acme" finds "acme-2" and "ACME"), so what it finds is compared exactly
   here.
3. ``GET /api/v1/subjects/{subject}/entitlements``, then ``…/{feature}/value`` for each: the last resort,
   for servers without customers, and for a subject whose name is part of so many others (``CROWD``) that 2.
   does not tell.

Where a subject was found in 2. or 3. is remembered for ``PLACE_SECONDS`` (bounded, see ``remembered``), so
that it is one request as well; for no longer, because a subject can be moved to another customer, whose
access then counts. A 404 or 412 from a remembered place forgets it at once.

The v3 batch query (``batch.py``) resolves keys and subject keys exactly, but has no balances, is marked private
and unstable, and older servers lack it: it can only confirm what was read before (``query``).

**One subject must never read another's access.** Subjects are names that a paying user may have chosen, and
some names do not survive a URL path as they are:

* OpenMeter's path parameters take an id *or* a key. A user called like the ULID of another customer would
  get that customer's access.
* A router may decode a path twice: ``ac%6De`` would become ``acme``.
* Proxies on the way decode, cut and merge paths: ``x/../acme``, ``acme;x``, ``acme?x``, ``acme#x``. And
  ``.`` and ``..`` cannot be written as a path segment at all (RFC 3986, 6.2.2.3).

Such names (``is_plain`` says which are not) are looked for by query parameter, once as a key and once as a
subject key, at last as a subject; what comes back says whose it is and is compared exactly, and only the id
that OpenMeter made goes into the path of a read. A customer's *id* is no subject of it: OpenMeter does not
attribute usage to it either.

A name that OpenMeter cannot hold (a NUL, an unpaired surrogate) is nobody's, and is not asked for: its
database would answer with a 500, which would read as an outage and let the user in under ``onError:
allow``.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple, TypeVar
from urllib.parse import quote

from metergate.errors import OpenMeterMisdirected
from metergate.openmeter.batch import LONGEST_KEY, BatchAccess, query_access
from metergate.openmeter.catalog import Catalog, read_catalog
from metergate.openmeter.connection import Connection
from metergate.openmeter.problems import Lack
from metergate.openmeter.values import (
    AccessState,
    Customer,
    FeatureValue,
    MeteredEntitlement,
    SubjectAccess,
    read_access,
    read_customers,
    read_entitlement,
    read_entitlement_of,
    read_feature_keys,
    read_grant_times,
    read_subject,
    read_value,
)

PLACE_SECONDS = 60.0
"""How long it is remembered whose subject a subject is."""

CROWD = 100
"""Customers read to find one by a partial match. A name that is part of so many others is looked for
elsewhere: reading all customers for a user called "a", every few seconds, would be worse than a request for
each feature."""

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}")
_UNSAFE_IN_PATHS = re.compile(r"[%/\\?#;\x00-\x1f\x7f]")
_UNHOLDABLE = re.compile("[\x00\ud800-\udfff]")

_Filter = Literal["key", "subject"]
_Read = TypeVar("_Read")


class Place(NamedTuple):
    """Where a subject's entitlements are read: under ``customers`` or ``subjects``; ``ref`` is
    percent-encoded.
    """

    kind: Literal["customers", "subjects"]
    ref: str


def is_plain(subject: str) -> bool:
    """Whether a subject may stand in a URL path (percent-encoded) and mean nothing but itself there."""
    return not (_ULID.fullmatch(subject) or _UNSAFE_IN_PATHS.search(subject) or subject in (".", ".."))


def fits_batch(subject: str) -> bool:
    """Whether the batch query can hold a subject as a key."""
    return 0 < len(subject) <= LONGEST_KEY and not _UNHOLDABLE.search(subject)


class AccessClient:
    """Reads entitlements of one OpenMeter. Make one per URL and key; use it on one event loop at a time.

    Nothing is opened before the first read, so it can be made before the event loop runs and before a fork:
    the connections belong to the process that reads. A process that has read must not fork others that
    read: pyreqwest's threads do not survive it, and its RuntimeError says so.
    """

    def __init__(
        self,
        api_url: str,
        api_key: str,
        *,
        timeout_seconds: float = 10.0,
        most_connections: int = 64,
        remembered: int = 20_000,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            api_url: where OpenMeter is, without ``/api/v1``.
            api_key: sent as ``Authorization: Bearer``; in no log, error or repr.
            timeout_seconds: for each HTTP request from connecting to the last byte, waiting for a
                connection included.
            most_connections: requests under way at once; more wait.
            remembered: how many subjects it is remembered of whose they are; the longest unused is
                forgotten first.
            clock, wall_clock: seconds since whenever, and since 1970.
        """
        self._connection = Connection(
            api_url,
            api_key,
            timeout_seconds=timeout_seconds,
            most_connections=most_connections,
            wall_clock=wall_clock,
        )
        self._get = self._connection.get
        self._remembered = remembered
        self._clock = clock
        self._places: OrderedDict[str, tuple[float, Place]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<AccessClient {self._connection.base} places={len(self._places)}>"

    def count_requests(self, on_request: Callable[[], None]) -> None:
        """Call this before each HTTP request from now on."""
        self._connection.on_request = on_request

    async def access(self, subject: str) -> SubjectAccess:
        """All features of a subject.

        Raises:
            OpenMeterUnauthorized: our key was refused.
            OpenMeterThrottled: slow down.
            OpenMeterOutage: no answer. OpenMeterMisdirected: none of OpenMeter's. OpenMeterBlocked: a firewall's.
        """
        place, answer, state = await self._read(subject, self._features)
        if place is None:
            return SubjectAccess(state)
        if answer or place.kind == "customers":
            self._remember(subject, place)
        return SubjectAccess(state, answer or ())

    async def value(self, subject: str, feature: str) -> FeatureValue | None:
        """The value of one feature of a subject; None where there is no such entitlement, or no such
        customer.

        Current servers answer for a customer without such an entitlement like for an inactive one:
        ``has_access`` False and no balance.

        Raises:
            As ``access``.
        """
        _, answer, _ = await self._read(subject, lambda place: self._value(place, feature))
        return answer

    async def entitlement(self, subject: str, feature: str) -> MeteredEntitlement | None:
        """The metered entitlement of a subject to a feature; None where there is none, or one of another type.

        One request in the usual case, a customer that has it: ``GET
        /api/v2/customers/{customer}/entitlements/{feature}``. Where that has none, it is found out whose the
        subject is, as for ``access``, and where that has the feature and the endpoint still has none, as on
        servers from before version 2, the list of the subject's entitlements tells.

        Raises:
            As ``access``.
        """
        return (await self._find_entitlement(subject, feature))[1]

    async def rises(self, subject: str, feature: str) -> tuple[float, ...]:
        """When the balance of a metered entitlement changes by itself: the ends of its usage period, and the times at which
        its grants begin and recur next. Seconds since 1970, past ones among them; nothing where there is none.

        As `entitlement`, and one request more, for the grants: at most the first 1,000.

        Raises:
            As ``access``.
        """
        place, found = await self._find_entitlement(subject, feature)
        if place is None or found is None:
            return ()
        period = (found.period_start, found.period_end)
        return (*(time for time in period if time is not None), *await self._grant_times(place, feature))

    async def _find_entitlement(
        self, subject: str, feature: str
    ) -> tuple[Place | None, MeteredEntitlement | None]:
        """A metered entitlement, and where it is."""
        if not subject or _UNHOLDABLE.search(subject + feature) or not is_plain(feature):
            return None, None
        place = await self._recall(subject) or await self._by_key(subject)
        found = Lack.ABSENT if place is None else await self._entitlement(place, feature)
        if not isinstance(found, Lack):
            return place, found
        tried, (place, values, _) = place, await self._read(subject, self._features)
        if place is None or all(value.feature != feature for value in values or ()):
            return None, None
        if place != tried:
            found = await self._entitlement(place, feature)
        if isinstance(found, Lack) and place.kind == "customers":
            place = await self._by_subject(subject)
            found = Lack.ABSENT if place is None else await self._entitlement(place, feature)
        return (None, None) if isinstance(found, Lack) else (place, found)

    @property
    def visibility_seconds(self) -> float | None:
        """How long after it acknowledged an event the server's answers may lack it, where it says so itself."""
        return self._connection.visibility_seconds

    async def catalog(self) -> Catalog:
        """All features and meters.

        Raises:
            As ``access``; OpenMeterOutage also where there is no such list.
        """
        return await read_catalog(self._get)

    async def query(self, subjects: Sequence[str], features: Sequence[str]) -> BatchAccess | None:
        """Whether these subjects have access to these features, in one request; None where the server does
        not offer that.

        Args:
            subjects: at most `batch.MOST_SUBJECTS`, each one that `fits_batch` says yes to.
            features: at most `batch.MOST_FEATURES`.

        Raises:
            OpenMeterThrottled, OpenMeterOutage: as ``access``.
        """
        return await query_access(self._connection.post, subjects, features)

    async def close(self) -> None:
        """Close the connections of this process. A later read opens new ones."""
        await self._connection.close()

    # --- where a subject is found

    async def _read(
        self, subject: str, read: Callable[[Place], Awaitable[_Read | Lack]]
    ) -> tuple[Place | None, _Read | None, AccessState]:
        """Read from the first place that has this subject; an error that is about the URL says which it is."""
        try:
            return await self._search(subject, read)
        except OpenMeterMisdirected as error:
            base = self._connection.base
            raise OpenMeterMisdirected(f"{base} does not look like OpenMeter: {error}") from error

    async def _search(
        self, subject: str, read: Callable[[Place], Awaitable[_Read | Lack]]
    ) -> tuple[Place | None, _Read | None, AccessState]:
        state: AccessState = "absent"
        if not subject or _UNHOLDABLE.search(subject):
            return None, None, state
        for find in (self._recall, self._by_key, self._by_subject_key, self._by_subject):
            place = await find(subject)
            if place is None:
                continue
            answer = await read(place)
            if not isinstance(answer, Lack):
                return place, answer, "found"
            self._places.pop(subject, None)
            if answer is Lack.DELETED:
                state = "deleted"
        return None, None, state

    async def _recall(self, subject: str) -> Place | None:
        known = self._places.get(subject)
        if known is None:
            return None
        until, place = known
        if self._clock() >= until:
            del self._places[subject]
            return None
        self._places.move_to_end(subject)
        return place

    async def _by_key(self, subject: str) -> Place | None:
        if is_plain(subject):
            return Place("customers", quote(subject, safe=""))
        return await self._customer("key", subject, lambda customer: customer.key == subject)

    async def _by_subject_key(self, subject: str) -> Place | None:
        return await self._customer("subject", subject, lambda customer: subject in customer.subjects)

    async def _customer(
        self, filter_name: _Filter, subject: str, matches: Callable[[Customer], bool]
    ) -> Place | None:
        """The customer that a filter of the list of customers finds, exactly; by id, which no key can
        equal.
        """
        endpoint = f"GET /api/v1/customers?{filter_name}="
        query = f"/api/v1/customers?{filter_name}={quote(subject, safe='')}&pageSize={CROWD}"
        body = await self._get(query, endpoint)
        if isinstance(body, Lack):
            return None
        found = next(filter(matches, read_customers(body, endpoint)), None)
        return None if found is None else Place("customers", quote(found.id, safe=""))

    async def _by_subject(self, subject: str) -> Place | None:
        if is_plain(subject):
            return Place("subjects", quote(subject, safe=""))
        if subject in (".", ".."):
            return None
        endpoint = "GET /api/v1/subjects/{subject}"
        body = await self._get(f"/api/v1/subjects/{quote(subject, safe='')}", endpoint)
        if isinstance(body, Lack):
            return None
        identity, key = read_subject(body, endpoint)
        return Place("subjects", quote(identity, safe="")) if key == subject else None

    def _remember(self, subject: str, place: Place) -> None:
        if subject in self._places or place == Place("customers", quote(subject, safe="")):
            return  # remembered already, for no longer than before; or found by its key, one request anyway
        self._places[subject] = self._clock() + PLACE_SECONDS, place
        if len(self._places) > self._remembered:
            self._places.popitem(last=False)

    # --- what is there

    async def _features(self, place: Place) -> tuple[FeatureValue, ...] | Lack:
        if place.kind == "subjects":
            return await self._features_one_by_one(place)
        endpoint = "GET /api/v1/customers/{customer}/access"
        body = await self._get(f"/api/v1/customers/{place.ref}/access", endpoint)
        return body if isinstance(body, Lack) else read_access(body, endpoint)

    async def _features_one_by_one(self, place: Place) -> tuple[FeatureValue, ...] | Lack:
        endpoint = "GET /api/v1/subjects/{subject}/entitlements"
        body = await self._get(f"/api/v1/subjects/{place.ref}/entitlements", endpoint)
        if isinstance(body, Lack):
            return body
        values = [await self._value(place, feature) for feature in read_feature_keys(body, endpoint)]
        # An entitlement can end between the list and its value; it is then none.
        return tuple(value for value in values if not isinstance(value, Lack))

    async def _value(self, place: Place, feature: str) -> FeatureValue | Lack:
        endpoint = f"GET /api/v1/{place.kind}/{{{place.kind[:-1]}}}/entitlements/{{feature}}/value"
        path = f"/api/v1/{place.kind}/{place.ref}/entitlements/{quote(feature, safe='')}/value"
        body = await self._get(path, endpoint)
        return body if isinstance(body, Lack) else read_value(body, feature, endpoint)

    async def _entitlement(self, place: Place, feature: str) -> MeteredEntitlement | Lack | None:
        if place.kind == "customers":
            endpoint = "GET /api/v2/customers/{customer}/entitlements/{feature}"
            path = f"/api/v2/customers/{place.ref}/entitlements/{quote(feature, safe='')}"
            body = await self._get(path, endpoint)
            return body if isinstance(body, Lack) else read_entitlement(body, endpoint)
        endpoint = "GET /api/v1/subjects/{subject}/entitlements"
        body = await self._get(f"/api/v1/subjects/{place.ref}/entitlements", endpoint)
        return body if isinstance(body, Lack) else read_entitlement_of(body, feature, endpoint)

    async def _grant_times(self, place: Place, feature: str) -> tuple[float, ...]:
        kind = place.kind[:-1]
        version = 2 if place.kind == "customers" else 1
        endpoint = f"GET /api/v{version}/{place.kind}/{{{kind}}}/entitlements/{{feature}}/grants"
        path = f"/api/v{version}/{place.kind}/{place.ref}/entitlements/{quote(feature, safe='')}/grants"
        body = await self._get(f"{path}?pageSize=1000" if version == 2 else path, endpoint)
        return () if isinstance(body, Lack) else read_grant_times(body, endpoint)
