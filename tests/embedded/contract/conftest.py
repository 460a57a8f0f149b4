"""The two descriptions, and a server whose every answer is held against them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.embedded.contract.description import Description, Operation

HERE = Path(__file__).parent
STATUSES = {("createMeter", 200): 201}
"""Where OpenMeter's code answers another status than its description has; we follow the code."""
MISSING = (
    "$: 'instance' is a required property",  # in what its validator of requests answers
    "$: 'invalid_parameters' is a required property",  # in version 3, where a rule of the domain is broken
)
"""What OpenMeter's code leaves out of problems though it is described as required."""


@pytest.fixture(scope="session")
def v1() -> Description:
    return Description(HERE / "openmeter-api-v1-v2.yaml")


@pytest.fixture(scope="session")
def v3() -> Description:
    return Description(HERE / "openmeter-api-v3.yaml", "/api/v3")


@dataclass
class Contract:
    """Calls the server and fails on an answer that does not fit. ``answered`` are operations and statuses so far,
    ``bodies`` the method, the path and the last body with which an operation succeeded.
    """

    openmeter: Any
    descriptions: tuple[Description, ...]
    answered: set[tuple[str, int]] = field(default_factory=set)
    bodies: dict[str, tuple[str, str, Any]] = field(default_factory=dict)

    def __call__(
        self, method: str, target: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> Any:
        answer = self.openmeter(method, target, body, headers=headers)
        description, operation = self.find(method, urlsplit(target).path)
        self.answered.add((operation.id, answer.status))
        media_type = answer.headers.get("content-type", "").partition(";")[0]
        status = STATUSES.get((operation.id, answer.status), answer.status)
        findings = list(description.answer_findings(operation, status, media_type, answer.body))
        if media_type == "application/problem+json":
            findings = [finding for finding in findings if finding not in MISSING]
        assert not findings, (operation.id, answer.status, answer.body[:2000], findings)
        if answer.status < 300 and isinstance(body, dict):
            self.bodies[operation.id] = (method, target, body)
        return answer

    def find(self, method: str, path: str) -> tuple[Description, Operation]:
        for description in self.descriptions:
            if operation := description.find(method, path):
                return description, operation
        raise AssertionError(f"{method} {path} is not described")

    def good(self, method: str, target: str, body: Any = None, **more: Any) -> Any:
        """The decoded answer of a call that succeeds."""
        answer = self(method, target, body, **more)
        assert answer.status < 300, (method, target, answer.body)
        media_type = answer.headers.get("content-type", "")
        return answer.json if answer.body and "json" in media_type else answer.body.decode()

    def bad(self, status: int, method: str, target: str, body: Any = None, **more: Any) -> None:
        """A call that is answered with this status, and a problem that fits."""
        answer = self(method, target, body, **more)
        assert answer.status == status, (method, target, answer.status, answer.body)


@pytest.fixture
def contract(openmeter: Any, v1: Description, v3: Description) -> Contract:
    return Contract(openmeter, (v1, v3))
