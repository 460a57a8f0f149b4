"""The values that the other rooms read: a checked ``openmeter-inbound`` policy and its parts. All
immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from metergate.policy.expressions.template import Template
from metergate.policy.secret import Secret
from metergate.policy.statuses import StatusSet
from metergate.policy.subject import SubjectPath

OnError = Literal["allow", "deny"]
Mode = Literal["enforce", "shadow"]
Durability = Literal["memory", "process", "power"]


@dataclass(frozen=True, slots=True)
class TokenMeter:
    """``from``, ``tokens`` and ``estimate`` of a meter: whose responses are read, and what becomes of their tokens.

    ``each``: an event for each kind of token; otherwise one with all of them.
    """

    provider: str
    each: bool = True
    estimate: bool = False


@dataclass(frozen=True, slots=True)
class FromTraffic:
    """What a configured meter takes from a request and its response. ``required``: JSON paths into the data, as in
    `expressions.Filled`; where one of them is missing there is no event."""

    template: Template
    tokens: TokenMeter | None = None
    required: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Meter:
    """One event to send for a request that is metered.

    ``data`` is the event's data, None where it has none. The rest overrides a CloudEvents field for this
    event only; ``id`` and ``time`` (RFC 3339, UTC) can be set at run time only. ``traffic`` is None unless the data
    differs from request to request by what the configuration takes from them; ``data`` is what is constant of it.
    """

    type: str
    data: Mapping[str, Any] | None = None
    subject: str | None = None
    source: str | None = None
    id: str | None = None
    time: str | None = None
    traffic: FromTraffic | None = None


@dataclass(frozen=True, slots=True)
class FeatureCheck:
    """How one feature is checked, where its entry in ``requiredEntitlements`` may differ from `EntitlementCheck`.

    ``reserve`` is in units of the feature's meter; None where nothing was said.
    """

    feature: str
    on_error: OnError = "allow"
    exhausted_status: int = 403
    reserve: float | None = None


@dataclass(frozen=True, slots=True)
class EntitlementCheck:
    """``entitlementCheck`` of the options. Times in seconds.

    ``reserve``: what a request in flight holds of a balance, and what must be left of it for a request to be let
    in. ``max_reads_per_second``: of OpenMeter. ``explain_header``: the response header that tells the decision,
    lower case. ``visibility_seconds``: how long after OpenMeter acknowledged an event it may be missing in a
    balance. ``features`` are those that differ; `of` gives the settings of any.
    """

    ttl_seconds: float = 5.0
    max_stale_seconds: float = 300.0
    timeout_seconds: float = 2.0
    on_error: OnError = "allow"
    exhausted_status: int = 403
    mode: Mode = "enforce"
    reserve: float | None = None
    max_reads_per_second: float = 25.0
    explain_header: str | None = None
    visibility_seconds: float = 5.0
    features: tuple[FeatureCheck, ...] = ()

    def of(self, feature: str) -> FeatureCheck:
        """How that feature is checked. Not meant for every request."""
        for one in self.features:
            if one.feature == feature:
                return one
        return FeatureCheck(feature, self.on_error, self.exhausted_status, self.reserve)


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """``delivery`` of the options: what a recorded event survives, events in a batch, milliseconds before one
    goes out."""

    durability: Durability = "process"
    batch_size: int = 500
    max_delay_ms: int = 100


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked ``openmeter-inbound`` policy. ``api_url`` has no trailing slash and no ``/api/v1``."""

    name: str
    api_key: Secret
    api_url: str = "https://openmeter.cloud"
    meters: tuple[Meter, ...] = ()
    statuses: StatusSet = field(default_factory=lambda: StatusSet.parse("200-299"))
    event_source: str = "api-gateway"
    required_entitlements: tuple[str, ...] = ()
    subject_path: SubjectPath = field(default_factory=lambda: SubjectPath.parse(".sub"))
    entitlement_check: EntitlementCheck = EntitlementCheck()
    delivery: DeliveryOptions = DeliveryOptions()
