"""What a project's modules are written with: ``from metergate.runtime import Request, Response, problems``.

An inbound policy is ``(request, context, options, policy_name)`` and returns a `Request` or a `Response`, an outbound
policy ``(response, request, context, options, policy_name)`` and returns a `Response`, a handler ``(request, context)``
and returns a `Response` or what becomes JSON. Each may be ``def`` or ``async def``. ``runtime_init(runtime)`` of
``modules/zuplo.runtime.py`` or ``modules/runtime.py`` gets `RuntimeHooks`.
"""

from metergate.errors import ConfigurationError, RuntimeProblem
from metergate.gateway import problems
from metergate.gateway.context import Context
from metergate.gateway.contextdata import ContextData
from metergate.gateway.environment import environment
from metergate.gateway.hooks import RuntimeHooks
from metergate.gateway.http import Headers, Request, Response, User
from metergate.gateway.policies.openmeter import OpenMeterInboundPolicy

__all__ = [
    "ConfigurationError",
    "Context",
    "ContextData",
    "Headers",
    "OpenMeterInboundPolicy",
    "Request",
    "Response",
    "RuntimeHooks",
    "RuntimeProblem",
    "User",
    "environment",
    "problems",
]
