"""The routes as OpenAPI documents define them: read and checked, not yet built.

``paths[path][method]["x-zuplo-route"]`` makes an operation a route; ``x-zuplo-path`` of the path item says in which
notation the path is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from metergate.errors import Finding
from metergate.gateway.documents import Document
from metergate.gateway.environment import misplaced
from metergate.gateway.paths import MODES, PathMode, PathPattern, PatternError, parse_pattern
from metergate.policy.fields import Fields, child, kind

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")

ROUTE = "x-zuplo-route"
PATH = "x-zuplo-path"

_ITEM_KEYS = ("summary", "description", "servers", "parameters", "$ref", *METHODS)
_HANDLER = '"handler": {"export": "urlForwardHandler", "module": "$import(@zuplo/runtime)", "options": {…}}'
_LOOKS_LIKE_URL_PATTERN = re.compile(r"/:[A-Za-z_]|\(\.\*\)|/\*(?:/|\Z)").search


@dataclass(frozen=True, slots=True)
class RouteDefinition:
    """One route, with the JSON path of its ``x-zuplo-route`` in ``file``. ``options`` are as written.

    ``handler_export`` and ``handler_module`` are empty after an error.
    """

    file: str
    path: str
    method: str
    pattern: PathPattern
    handler_export: str
    handler_module: str
    options: Any
    inbound: tuple[str, ...]
    outbound: tuple[str, ...]
    cors: str
    operation_id: str | None
    raw: Mapping[str, Any]

    @property
    def label(self) -> str:
        return f"{self.method} {self.pattern.source}"


def read_routes(document: Document) -> tuple[list[RouteDefinition], list[Finding]]:
    """The routes of one document in its order, and every finding about them."""
    paths = document.value.get("paths")
    if not isinstance(paths, Mapping):
        state = "is missing" if paths is None else f"has to be an object, not {kind(paths)}"
        fix = 'Write "paths": {"/": {"get": {…}}}.'
        return [], [Finding("error", "$.paths", f'"paths" {state}.', fix, document.name)]
    routes: list[RouteDefinition] = []
    findings: list[Finding] = []
    for path, item in paths.items():
        found, about = _read_item(document.name, path, item)
        routes += found
        findings += about
    options = {child(child(route.path, "handler"), "options") for route in routes}
    findings += misplaced(document.value, allowed=options)
    return routes, [replace(finding, file=document.name) for finding in findings]


def _read_item(file: str, path: str, item: Any) -> tuple[list[RouteDefinition], list[Finding]]:
    fields = Fields(item if isinstance(item, Mapping) else {}, child("$.paths", path))
    if path.startswith("x-"):
        return [], []
    if not isinstance(item, Mapping):
        message = f"A path has to be an object of methods, not {kind(item)}."
        return [], [Finding("error", fields.path, message, 'Write {"get": {…}}.')]
    if "$ref" in item:
        fields.doubt("$ref", "What is referred to is not read.", "Write the path's methods here.")
    if ROUTE in item:
        fields.doubt(ROUTE, "It has no effect on a path.", "Move it into a method: get, post, …")
    known = (*_ITEM_KEYS, *(key for key in item if key.startswith("x-")))
    fields.name_unknown(known, "key")
    pattern = _read_pattern(fields, path, _read_mode(fields))
    routes = [
        route
        for method in item
        if method in METHODS and (route := _read_operation(file, fields, method, pattern)) is not None
    ]
    return routes, fields.findings


def _read_mode(fields: Fields) -> PathMode:
    if not fields.given(PATH, {}):
        return "open-api"
    inner = fields.object(PATH)
    mode: PathMode = inner.choice("pathMode", "open-api", MODES)
    inner.name_unknown(("pathMode",), "key")
    fields.include(inner.findings)
    return mode


def _read_pattern(fields: Fields, path: str, mode: PathMode) -> PathPattern:
    """The pattern; after an error some other one, so that the rest of the path is checked too."""
    try:
        pattern = parse_pattern(path, mode)
    except PatternError as wrong:
        fields.findings.append(Finding("error", fields.path, wrong.message, wrong.fix))
        return PathPattern(path, re.escape(path), (), None)
    if mode == "open-api" and _LOOKS_LIKE_URL_PATTERN(path):
        message = "In the open-api notation every character but {name} stands for itself."
        fix = f'If this is a URL pattern, write "{PATH}": {{"pathMode": "url-pattern"}} beside its methods.'
        fields.findings.append(Finding("warning", fields.path, message, fix))
    return pattern


def _read_operation(file: str, item: Fields, method: str, pattern: PathPattern) -> RouteDefinition | None:
    operation = item.values[method]
    if not isinstance(operation, Mapping):
        item.refuse(
            method, f"A method has to be an object, not {kind(operation)}.", f'Write {{"{ROUTE}": {{…}}}}.'
        )
        return None
    fields = Fields(operation, child(item.path, method))
    route = _read_route(file, fields, method, pattern)
    item.include(fields.findings)
    return route


def _read_route(file: str, fields: Fields, method: str, pattern: PathPattern) -> RouteDefinition | None:
    for key in ("policies", "corsPolicy", "handler"):
        if key in fields.values:
            cost = (
                "none of these policies runs, so nothing is metered here"
                if key == "policies"
                else "it has no effect"
            )
            fields.doubt(key, f'"{key}" stands beside "{ROUTE}": {cost}.', f'Move it into "{ROUTE}".')
    if PATH in fields.values:
        fields.doubt(PATH, "It has no effect on a method.", "Move it up, beside the methods of the path.")
    if ROUTE not in fields.values:
        _say_no_route(fields)
        return None
    route = fields.object(ROUTE)
    handler = route.object("handler")
    if "handler" not in route.values:
        route.refuse("handler", "The route has no handler.", f"Write {_HANDLER}.")
    present = isinstance(route.values.get("handler"), Mapping)
    inbound, outbound = _read_policies(route)
    definition = RouteDefinition(
        file,
        route.path,
        method.upper(),
        pattern,
        _required(handler, "export", "urlForwardHandler", present),
        _required(handler, "module", "$import(@zuplo/runtime)", present),
        handler.values.get("options", {}),
        inbound,
        outbound,
        route.text("corsPolicy", "none"),
        fields.text("operationId", "") or None,
        fields.values,
    )
    handler.name_unknown(("export", "module", "options"), "key")
    route.name_unknown(("corsPolicy", "handler", "policies", "mcp", "raw"), "key")
    route.include(handler.findings)
    fields.include(route.findings)
    return definition


def _say_no_route(fields: Fields) -> None:
    """An operation that is no route, which may be meant so; hardly where something beside it reads like one."""
    misspelt = get_close_matches(ROUTE, fields.values, n=1, cutoff=0.85)
    if misspelt:
        message = f'"{misspelt[0]}" is not known, so the gateway answers this with 404.'
        fields.doubt(misspelt[0], message, f'Did you mean "{ROUTE}"?')
        return
    message = f'There is no "{ROUTE}": the gateway answers this with 404.'
    fields.findings.append(Finding("warning", fields.path, message, f'Write "{ROUTE}": {{{_HANDLER}}}.'))


def _required(handler: Fields, key: str, example: str, present: bool) -> str:
    value = handler.values.get(key)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if present:
        state = "is missing" if key not in handler.values else f"has to be a string, not {kind(value)}"
        handler.refuse(key, f'"{key}" {state}.', f'Write "{key}": "{example}".')
    return ""


def _read_policies(route: Fields) -> tuple[tuple[str, ...], tuple[str, ...]]:
    written = route.values.get("policies")
    if isinstance(written, list):
        fix = 'Write "policies": {"inbound": […], "outbound": […]}.'
        route.refuse("policies", "A list does not say which way the policies go.", fix)
        return (), ()
    policies = route.object("policies")
    names = _names(policies, "inbound"), _names(policies, "outbound")
    policies.name_unknown(("inbound", "outbound"), "key")
    route.include(policies.findings)
    return names


def _names(policies: Fields, key: str) -> tuple[str, ...]:
    value = policies.values.get(key, [])
    if not isinstance(value, list):
        fix = (
            f'Write "{key}": [{value!r}].'.replace("'", '"')
            if isinstance(value, str)
            else f'Write "{key}": [].'
        )
        policies.refuse(key, f'"{key}" has to be a list of names, not {kind(value)}.', fix)
        return ()
    names: list[str] = []
    for index, each in enumerate(value):
        if isinstance(each, str):
            names.append(each)
        else:
            path = child(child(policies.path, key), index)
            message = f"A policy is named by a string, not {kind(each)}."
            policies.findings.append(Finding("error", path, message, 'Write its "name".'))
    return tuple(names)
