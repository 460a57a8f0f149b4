"""What a test of your own project can use: real servers, a small API to stand behind a gateway, load.

``embedded_openmeter`` needs ``metergate[embedded]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metergate.testing.embedded import EmbeddedOpenMeter, VirtualClock, embedded_openmeter

__all__ = ["EmbeddedOpenMeter", "VirtualClock", "embedded_openmeter"]


def __getattr__(name: str) -> Any:
    """Import on first use: the other rooms of this package do without the embedded server's dependencies."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from metergate.testing import embedded

    return getattr(embedded, name)
