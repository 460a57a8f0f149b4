"""Admit a request, settle a response: policy, entitlements, delivery and the OpenMeter client as one object.

A host (the gateway, a middleware) needs this module only. For a request it makes one `Metering`; for each
`openmeter-inbound` policy on the way it asks that policy's `Engine` to `admit` the user and, where let in, arms the
metering with it. When the final status is known, and before the response's last byte leaves, it calls
`Metering.settle`.

    backends = Backends(Path(".metergate/spool"))
    engine = Engine(policy, backends)
    backends.start()
    admission = engine.admit(user)              # a plain value, or an awaitable of one
    metering.arm(engine, admission.subject, "GET /orders")
    for durable in metering.settle(200): await asyncio.wrap_future(durable)

Where a policy has meters that take something from the traffic, `Metering.traffic` collects it: see
`metergate.engine.traffic` for what a host hands in.

In the usual case (a fresh snapshot) `admit` is a plain function call: no await, no lock, no network.
"""

from metergate.delivery import Delivery
from metergate.engine.admission import Admission, Engine, UserLike
from metergate.engine.backends import Backends, BackendsStatistics
from metergate.engine.denials import Denial
from metergate.engine.metering import Metering, Recording
from metergate.engine.traffic import Look, Traffic
from metergate.entitlements import Decision

__all__ = [
    "Admission",
    "Backends",
    "BackendsStatistics",
    "Decision",
    "Delivery",
    "Denial",
    "Engine",
    "Look",
    "Metering",
    "Recording",
    "Traffic",
    "UserLike",
]
