"""The original's `setMeters` sample, in Python: an inbound policy that decides what this request is metered as."""

from typing import Any

from metergate.runtime import Context, OpenMeterInboundPolicy, Request


def default(request: Request, context: Context, options: Any, policy_name: str) -> Request:
    # Set a single meter ...
    OpenMeterInboundPolicy.set_meters(
        context,
        {
            "type": "api-call",
            "data": {"endpoint": request.url, "method": request.method, "tokens": 150},
        },
    )
    # ... or several. The last call counts, and what the policy's JSON configures for other types stays.
    OpenMeterInboundPolicy.set_meters(
        context,
        [
            {"type": "api-call", "data": {"endpoint": request.url, "method": request.method}},
            {
                "type": "llm-usage",
                "data": {"model": "gpt-4", "prompt_tokens": 100, "completion_tokens": 50},
            },
        ],
    )
    return request
