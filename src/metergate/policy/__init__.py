"""What is metered and who pays: the ``openmeter-inbound`` policy, read, checked, and turned into events.

Pure: no I/O, no clock, no framework. `read_shape` and `read_options` make a `Policy` of a configuration and
name all that is wrong with it; `SubjectPath.read` finds whom a request is counted for, `EventEncoder` makes
its events.
"""

from metergate.policy.events import Drop, EventEncoder, RecordedEvent, Recording
from metergate.policy.meters import merge, runtime_meters
from metergate.policy.model import DeliveryOptions, EntitlementCheck, FeatureCheck, Meter, Policy
from metergate.policy.options import Unset, read_options, strictly
from metergate.policy.retired import is_retired, retired
from metergate.policy.secret import Secret
from metergate.policy.shapes import PolicyDocument, read_shape
from metergate.policy.statuses import StatusSet
from metergate.policy.subject import SubjectPath, UserLike

__all__ = [
    "DeliveryOptions",
    "Drop",
    "EntitlementCheck",
    "EventEncoder",
    "FeatureCheck",
    "Meter",
    "Policy",
    "PolicyDocument",
    "RecordedEvent",
    "Recording",
    "Secret",
    "StatusSet",
    "SubjectPath",
    "Unset",
    "UserLike",
    "is_retired",
    "merge",
    "read_options",
    "read_shape",
    "retired",
    "runtime_meters",
    "strictly",
]
