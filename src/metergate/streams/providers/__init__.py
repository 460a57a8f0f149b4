"""The providers whose usage is known, by the name that a meter's ``from`` has for them."""

from collections.abc import Mapping
from types import MappingProxyType

from metergate.streams.providers import anthropic, gemini, openai, responses
from metergate.streams.usage import Provider

PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        "openai": openai.PROVIDER,
        "openai-responses": responses.PROVIDER,
        "anthropic": anthropic.PROVIDER,
        "gemini": gemini.PROVIDER,
    }
)

__all__ = ["PROVIDERS"]
