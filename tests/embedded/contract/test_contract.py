"""Every answer fits OpenMeter's own descriptions of its API, and what does not fit them is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import pytest
from tests.embedded.contract import walk

WRONG = (7, "\x00no", [7], {"no": 7}, True)
"""One of each type; most do not fit where something else is expected."""
WRONG_PARTS = ("No such", "x" * 257)
"""Neither a key nor an id; the second is too long for whatever has a length."""
WRONG_PARAMETERS = {"integer": ("x", "-1", "0.5"), "boolean": ("x", "1")}


@pytest.fixture
def walked(contract, event, clock):
    """A server that every operation was done with."""
    walk.metering(contract, event)
    walk.customers(contract)
    walk.entitlements_v1(contract, clock)
    walk.entitlements_v2(contract, clock)
    walk.version_3(contract, event)
    walk.portal(contract)
    walk.notifications(contract)
    return contract


def test_every_operation_is_done_and_its_answers_fit_the_description(walked, v1, v3):
    done = {name for name, status in walked.answered if status < 300}
    described = {each.id for description in (v1, v3) for each in description.operations}
    assert described - done == {"listPortalTokens", "invalidatePortalTokens"}


def variations(body: Mapping[str, Any]) -> Iterator[Any]:
    """Bodies that differ from one that was accepted: a property left out, null, or of another type."""
    for name, value in body.items():
        yield {key: other for key, other in body.items() if key != name}
        yield from ({**body, name: wrong} for wrong in (*WRONG, None))
        if isinstance(value, dict):
            yield from ({**body, name: {**value, inner: wrong}} for inner in value for wrong in WRONG)
    yield from ([], "text", 7, None)


@pytest.mark.no_cover
def test_a_body_that_does_not_fit_the_description_is_refused(walked):
    accepted = []
    for name, (method, target, body) in sorted(walked.bodies.items()):
        description, operation = walked.find(method, target)
        for variation in variations(body):
            if findings := list(description.findings(variation, operation.body)):
                answer = walked(method, target, variation)
                if not 400 <= answer.status < 500:
                    accepted.append(f"{name} {answer.status} {findings}")
    if accepted:
        pytest.fail("\n".join(accepted))


@pytest.mark.no_cover
def test_a_parameter_that_does_not_fit_the_description_is_refused(walked, v1, v3):
    accepted, tried = [], 0
    for description in (v1, v3):
        for operation in description.operations:
            body = walked.bodies[operation.id][2] if operation.id in walked.bodies else None
            for name, target in (
                *wrong_queries(description, operation),
                *wrong_paths(description, operation),
            ):
                answer = walked(operation.method, target, body)
                tried += 1
                if answer.status != 400 or name not in answer.body.decode():
                    accepted.append(f"{operation.id} {target} {answer.status} {answer.body!r}")
    assert tried > 200
    if accepted:
        pytest.fail("\n".join(accepted))


def wrong_paths(description, operation) -> Iterator[tuple[str, str]]:
    """Names of parts of the path, and the path with something in that place that does not fit."""
    if operation.id == "queryPortalMeter":  # it looks at the token first
        return
    parts = {each["name"]: each for each in operation.definition["parameters"] if each["in"] == "path"}
    for name, part in parts.items():
        for wrong in WRONG_PARTS:
            if any(description.findings(wrong, part["schema"])):
                path = operation.path.replace(f"{{{name}}}", quote(wrong))
                yield name, re.sub(r"{\w+}", walk.UNKNOWN, path)


def wrong_queries(description, operation) -> Iterator[tuple[str, str]]:
    """Names of parameters, and the path with one of them that does not fit, beside a page that does."""
    if operation.method != "GET" or "{" in operation.path:
        return
    paged = "pageSize" in {parameter["name"] for parameter in operation.parameters}
    for parameter in operation.parameters:
        if "schema" not in parameter:  # it is JSON, or in version 3 an object spread over several
            continue
        schema = description.resolve(parameter["schema"])
        wrong = WRONG_PARAMETERS.get(schema.get("type"), ())
        if "enum" in schema:
            wrong = ("no-such-word",)
        if schema.get("format") == "date-time":
            wrong = ("yesterday", "2026-01-01")
        if "items" in schema:
            wrong = tuple(each for each in WRONG_PARTS if any(description.findings(each, schema["items"])))
        name = parameter["name"]
        beside = "&pageSize=1" if paged and name != "pageSize" else ""
        yield from ((name, f"{operation.path}?{name}={quote(each)}{beside}") for each in wrong)


@pytest.mark.no_cover
def test_what_the_description_gives_as_an_example_or_lets_be_null_is_not_refused_for_its_form(walked):
    refused, tried = [], 0
    for method, target, body in walked.bodies.values():
        description, operation = walked.find(method, target)
        nulls = (
            (name, None)
            for name in body
            if not any(description.findings({**body, name: None}, operation.body))
        )
        for name, value in (*description.examples(operation.body), *nulls):
            answer = walked(method, target, {**body, name: value})
            tried += 1
            if answer.status >= 300 and "match schema" in answer.detail:
                refused.append(f"{operation.id} {name}={value} {answer.body!r}")
    assert tried > 30
    if refused:
        pytest.fail("\n".join(refused))


@pytest.mark.parametrize(
    ("path", "schema", "status"),
    [("/api/v1/events", "Event", 204), ("/api/v3/openmeter/events", "MeteringEvent", 202)],
)
def test_the_described_event_is_ingested(contract, path, schema, status):
    description, _ = contract.find("POST", path)
    example = description.resolve({"$ref": f"#/components/schemas/{schema}"})["example"]
    assert contract("POST", path, example).status == status
