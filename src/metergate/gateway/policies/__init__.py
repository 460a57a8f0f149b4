"""Built-in policies by the name a project's JSON exports them under.

A project's own callable is not in `BUILTIN`: `policies.customcode.inbound` and `outbound` make a policy of
it.
"""

from metergate.gateway.registry import PolicyFactory, policy

_HERE = "metergate.gateway.policies"

BUILTIN: dict[str, PolicyFactory] = {
    "OpenMeterInboundPolicy": policy(f"{_HERE}.openmeter"),
    "ApiKeyInboundPolicy": policy(f"{_HERE}.apikey"),
    "OpenIdJwtInboundPolicy": policy(f"{_HERE}.jwt"),
    "CustomCodeInboundPolicy": policy(f"{_HERE}.customcode", "build_inbound"),
    "CustomCodeOutboundPolicy": policy(f"{_HERE}.customcode", "build_outbound"),
    "CompositeInboundPolicy": policy(f"{_HERE}.composite", "build_inbound"),
    "CompositeOutboundPolicy": policy(f"{_HERE}.composite", "build_outbound"),
    "SetHeadersInboundPolicy": policy(f"{_HERE}.headers", "build_set_inbound"),
    "SetHeadersOutboundPolicy": policy(f"{_HERE}.headers", "build_set_outbound"),
    "RemoveHeadersInboundPolicy": policy(f"{_HERE}.headers", "build_remove_inbound"),
    "RemoveHeadersOutboundPolicy": policy(f"{_HERE}.headers", "build_remove_outbound"),
}

POLICY_TYPES: dict[str, str] = {
    "openmeter-inbound": "OpenMeterInboundPolicy",
    "api-key-inbound": "ApiKeyInboundPolicy",
    "open-id-jwt-auth-inbound": "OpenIdJwtInboundPolicy",
    "custom-code-inbound": "CustomCodeInboundPolicy",
    "custom-code-outbound": "CustomCodeOutboundPolicy",
    "composite-inbound": "CompositeInboundPolicy",
    "composite-outbound": "CompositeOutboundPolicy",
    "set-headers-inbound": "SetHeadersInboundPolicy",
    "set-headers-outbound": "SetHeadersOutboundPolicy",
    "remove-headers-inbound": "RemoveHeadersInboundPolicy",
    "remove-headers-outbound": "RemoveHeadersOutboundPolicy",
}
"""The export that belongs to a ``policyType``, for a policy that names no export."""

__all__ = ["BUILTIN", "POLICY_TYPES", "PolicyFactory"]
