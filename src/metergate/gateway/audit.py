"""What no policy or route shows alone: policies on no route, in the wrong order or direction, routes never taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from metergate.errors import Finding
from metergate.gateway.catalog import Catalog, PolicyDefinition
from metergate.gateway.documents import POLICIES
from metergate.gateway.matcher import Matcher
from metergate.gateway.routedefinitions import RouteDefinition
from metergate.policy.fields import child


def audit(
    catalog: Catalog,
    routes: Sequence[RouteDefinition],
    *,
    duplicates: bool,
    hooks_may_authenticate: bool,
    all_read: bool,
) -> list[Finding]:
    """Every finding about how routes and policies go together. ``duplicates``: the same route twice is meant.

    ``all_read`` says that ``routes`` are all that the files define; only then it can be known what no route uses.
    """
    findings = [finding for route in routes for finding in _directions(catalog, route)]
    findings += (finding for route in routes for finding in _repetitions(catalog, route))
    if not hooks_may_authenticate:
        findings += (finding for route in routes for finding in _order(catalog, route))
    if all_read and routes:  # a project without routes is said as such
        findings += _unused(catalog, routes)
    if not duplicates:
        findings += _never_taken(routes)
    return findings


def _directions(catalog: Catalog, route: RouteDefinition) -> Iterator[Finding]:
    """A policy that is not there, or goes the other way."""
    for direction, name, path in _named(route):
        if not catalog.has(name):
            message, fix = catalog.unknown(name)
            yield Finding("error", path, message, fix, route.file)
            continue
        policy = catalog.built.get(name)
        if policy is not None and getattr(policy, direction) is None:
            other = "outbound" if direction == "inbound" else "inbound"
            message = f'"{name}" is an {other} policy and cannot run {direction}.'
            yield Finding("error", path, message, f'Move it into "{other}".', route.file, name)


def _named(route: RouteDefinition) -> Iterator[tuple[str, str, str]]:
    """Direction, name and JSON path of every policy that the route lists."""
    for direction, names in (("inbound", route.inbound), ("outbound", route.outbound)):
        listed = child(child(route.path, "policies"), direction)
        for index, name in enumerate(names):
            yield direction, name, child(listed, index)


def _repetitions(catalog: Catalog, route: RouteDefinition) -> Iterator[Finding]:
    seen: set[tuple[str, str]] = set()
    for direction, name, path in _named(route):
        if (direction, name) in seen and catalog.has(name):
            message = f'"{name}" runs twice on {route.label}.'
            yield Finding("warning", path, message, "Remove it here.", route.file, name)
        seen.add((direction, name))


def _order(catalog: Catalog, route: RouteDefinition) -> Iterator[Finding]:
    """An openmeter policy that runs before anything has said who is calling."""
    steps = list(_flattened(catalog, route))
    for index, (step, path) in enumerate(steps):
        if step.may_authenticate:
            return
        if not step.is_openmeter:
            continue
        later = next((each.name for each, _ in steps[index + 1 :] if each.may_authenticate), None)
        if step.checks_entitlements:
            cost = "there is no request.user yet, so every request is answered with 401"
        else:
            cost = "there is no request.user yet, so no usage has a subject and none is counted"
        where = (
            f'"{step.name}" comes before "{later}"'
            if later
            else f'Nothing before "{step.name}" authenticates'
        )
        fix = f'Move "{later}" before it.' if later else "Put an authentication policy before it."
        yield Finding("warning", path, f"{where} on {route.label}: {cost}.", fix, route.file, step.name)


def _flattened(catalog: Catalog, route: RouteDefinition) -> Iterator[tuple[PolicyDefinition, str]]:
    """The inbound policies as they run, those of composites in their place, with the path of what names them."""
    for direction, name, path in _named(route):
        if direction == "inbound":
            for each in _expanded(catalog, name, ()):
                yield each, path


def _expanded(catalog: Catalog, name: str, within: tuple[str, ...]) -> Iterator[PolicyDefinition]:
    definition = catalog.definitions.get(name)
    if definition is None or name in within:
        return
    if not definition.members:
        yield definition
    for member in definition.members:
        yield from _expanded(catalog, member, (*within, name))


def _unused(catalog: Catalog, routes: Iterable[RouteDefinition]) -> Iterator[Finding]:
    used: set[str] = set()
    pending = [name for route in routes for name in (*route.inbound, *route.outbound)]
    while pending:
        name = pending.pop()
        if name not in used and name in catalog.definitions:
            pending += catalog.definitions[name].members
        used.add(name)
    for definition in catalog.definitions.values():
        if definition.name in used:
            continue
        path = child(definition.path, "name")
        if definition.is_openmeter:
            message = (
                f'No route uses "{definition.name}": nothing is metered and no entitlement is checked by it.'
            )
            fix = (
                f'Add "{definition.name}" to "x-zuplo-route".policies.inbound of every route it is meant for.'
            )
        else:
            message, fix = f'No route uses "{definition.name}".', "Add it to a route, or remove it."
        yield Finding("warning", path, message, fix, POLICIES, definition.name)


def _never_taken(routes: Sequence[RouteDefinition]) -> Iterator[Finding]:
    matcher = Matcher((route.method, route.pattern, route) for route in routes)
    for shadowed in matcher.shadowed:
        route, winner = shadowed.route, shadowed.winner
        message = f"{route.label} is never reached: {winner.label}"
        message += f" in {winner.file}" if winner.file != route.file else ""
        fix = (
            "Remove one of them."
            if winner.pattern.regex == route.pattern.regex
            else "Move this one before it."
        )
        yield Finding(
            "warning", route.path, f"{message} comes first and takes its requests.", fix, route.file
        )
