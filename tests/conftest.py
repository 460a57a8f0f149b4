"""For all tests: examples of property tests have no deadline of their own, since a busy machine is no fault;
a test that hangs is ended by pytest's timeout. `make chaos` tries twenty times as many.
"""

import pytest
from hypothesis import settings

settings.register_profile("metergate", deadline=None, max_examples=25)
settings.register_profile("long", deadline=None, max_examples=500)
settings.load_profile("metergate")


@pytest.hookimpl(trylast=True)  # hypothesis marks its tests in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Property tests run without coverage: it takes them three times as long, and examples show the same lines."""
    for item in items:
        if item.get_closest_marker("hypothesis"):
            item.add_marker("no_cover")
