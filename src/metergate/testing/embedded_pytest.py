"""The pytest fixture ``embedded_openmeter``; pytest finds it by itself where Metergate is installed.

    @pytest.mark.embedded_openmeter(start=datetime(2026, 1, 1, tzinfo=UTC))
    def test_limits(embedded_openmeter): ...

The marker takes what the function of the same name takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # a test run that does not use the fixture should not pay for the import
    from metergate.testing.embedded import EmbeddedOpenMeter

MARKER = "embedded_openmeter"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", f"{MARKER}(start, config, token, folder): how the fixture is started")


@pytest.fixture(name="embedded_openmeter")
def _embedded_openmeter(request: pytest.FixtureRequest) -> Iterator[EmbeddedOpenMeter]:
    """A running embedded OpenMeter (``metergate.testing.EmbeddedOpenMeter``) of this test's own."""
    from metergate.testing.embedded import embedded_openmeter

    marker = request.node.get_closest_marker(MARKER)
    with embedded_openmeter(**(marker.kwargs if marker else {})) as openmeter:
        yield openmeter
