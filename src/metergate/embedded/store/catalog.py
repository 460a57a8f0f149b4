"""Who may use what: customers, subjects, features and entitlements as one whole, opened together."""

from __future__ import annotations

from metergate.embedded.store import customers, entitlements, features, grants, notifications, portal
from metergate.embedded.store.balances import Balances
from metergate.embedded.store.changes import Changes
from metergate.embedded.store.customers import CustomerStore
from metergate.embedded.store.database import Database
from metergate.embedded.store.entitlements import EntitlementStore
from metergate.embedded.store.features import FeatureStore
from metergate.embedded.store.grants import GrantStore
from metergate.embedded.store.history import Histories
from metergate.embedded.store.meters import MeterStore
from metergate.embedded.store.notifications import NotificationStore
from metergate.embedded.store.portal import PortalSecret
from metergate.embedded.store.rollups import Rollups

SCHEMA = [
    *customers.SCHEMA,
    *features.SCHEMA,
    *entitlements.SCHEMA,
    *grants.SCHEMA,
    *portal.SCHEMA,
    *notifications.SCHEMA,
]


class Catalog:
    """Made once per opened database; reads everything into memory. Changes are made one at a time."""

    def __init__(self, database: Database, meters: MeterStore, rollups: Rollups) -> None:
        changes = Changes()
        self.customers = CustomerStore(database, changes)
        self.features = FeatureStore(database, meters, changes)
        self.portal = PortalSecret(database)
        self.notifications = NotificationStore(database, self.features)
        self.grants = GrantStore(database, changes)
        self.entitlements = EntitlementStore(database, self.customers, self.features, self.grants, changes)
        self.balances = Balances(database, meters, self.customers, self.features, self.entitlements, rollups)
        self.histories = Histories(database, self.balances, self.grants)
