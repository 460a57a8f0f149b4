"""What the tests of the policy room share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metergate.policy import Policy, Unset, read_options

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def policy() -> Callable[..., Policy]:
    """Makes a policy of options, with an API key where none is given; fails where one of them is refused."""

    def make(**options: Any) -> Policy:
        read, findings = read_options({"apiKey": "secret-key", **options}, name="metering")
        assert read is not None, [str(finding) for finding in findings]
        return read

    return make


@pytest.fixture
def golden() -> Callable[[str], Any]:
    """Reads a golden file. ``{"$unset": NAME}`` in it stands for a variable that is not set."""

    def read(name: str) -> Any:
        return with_unset(json.loads((GOLDEN / name).read_text()))

    return read


def with_unset(value: Any) -> Any:
    if isinstance(value, dict):
        if "$unset" in value:
            return Unset(value["$unset"])
        return {key: with_unset(item) for key, item in value.items()}
    return [with_unset(item) for item in value] if isinstance(value, list) else value
