"""May this subject use these features? Snapshots of OpenMeter's answers, and the decision over them."""

from metergate.entitlements.checks import Entitlements
from metergate.entitlements.decision import Decision, Failure, Reason
from metergate.entitlements.source import AccessSource
from metergate.entitlements.statistics import EntitlementStatistics

__all__ = [
    "AccessSource",
    "Decision",
    "EntitlementStatistics",
    "Entitlements",
    "Failure",
    "Reason",
]
