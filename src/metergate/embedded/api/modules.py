"""Every module of routes, in the order in which paths are matched."""

from __future__ import annotations

from metergate.embedded.api import (
    access,
    customers,
    entitlements,
    event_pages,
    events,
    features,
    grants,
    history,
    meters,
    query,
    subjects,
)

MODULES = (
    events,
    event_pages,
    meters,
    query,
    features,
    customers,
    subjects,
    entitlements,
    grants,
    history,
    access,
)
