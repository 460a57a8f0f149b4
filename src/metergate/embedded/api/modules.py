"""Every module of routes, in the order in which paths are matched."""

from __future__ import annotations

from metergate.embedded.api import (
    access,
    administration,
    customers,
    debug,
    entitlements,
    event_pages,
    events,
    features,
    grants,
    history,
    meters,
    notifications,
    portal,
    query,
    subjects,
    unserved,
)
from metergate.embedded.api.v3 import access as access_v3
from metergate.embedded.api.v3 import customers as customers_v3
from metergate.embedded.api.v3 import events as events_v3
from metergate.embedded.api.v3 import features as features_v3
from metergate.embedded.api.v3 import meters as meters_v3
from metergate.embedded.api.v3 import query as query_v3

MODULES = (
    events,
    event_pages,
    meters,
    query,
    portal,
    notifications,
    features,
    customers,
    subjects,
    entitlements,
    grants,
    history,
    access,
    events_v3,
    meters_v3,
    query_v3,
    access_v3,
    customers_v3,
    features_v3,
    debug,
    administration,
    unserved,
)
