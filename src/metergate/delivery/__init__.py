"""From event to OpenMeter, none lost: spool, batches, sender, dead letters."""

from metergate.delivery.dead_letters import DeadLetter, dead_letters, redrive
from metergate.delivery.delivery import Delivery, Durability
from metergate.delivery.destination import (
    Destination,
    Folder,
    describe,
    folders,
    left_behind,
    name_heir,
    one_spelling,
)
from metergate.delivery.sent import sent_events
from metergate.delivery.statistics import DeliveryStatistics

__all__ = [
    "DeadLetter",
    "Delivery",
    "DeliveryStatistics",
    "Destination",
    "Durability",
    "Folder",
    "dead_letters",
    "describe",
    "folders",
    "left_behind",
    "name_heir",
    "one_spelling",
    "redrive",
    "sent_events",
]
