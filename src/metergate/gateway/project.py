"""A project: a folder of JSON and code, read, checked as a whole, and built into what the pipeline runs.

Everything wrong with it is found in one go; `metergate check` and the start of the gateway use the same function.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metergate.errors import Finding, nearest
from metergate.gateway import webhook
from metergate.gateway.audit import audit
from metergate.gateway.catalog import Catalog
from metergate.gateway.cors import CorsPolicy, read_cors_policies
from metergate.gateway.documents import (
    POLICIES,
    Document,
    read_policies_document,
    read_route_documents,
    read_settings,
)
from metergate.gateway.environment import EnvFile, misspelt, read_env_file, resolve
from metergate.gateway.environment import environment as runtime_environment
from metergate.gateway.hooks import RuntimeHooks
from metergate.gateway.model import Handler, NamedPolicy, Route
from metergate.gateway.modules import ProjectModules, is_builtin
from metergate.gateway.origins import Origins
from metergate.gateway.routedefinitions import RouteDefinition, read_routes
from metergate.gateway.router import Router
from metergate.gateway.workshop import Workshop
from metergate.policy.fields import child
from metergate.policy.options import strictly

if TYPE_CHECKING:
    from metergate.engine import Backends
    from metergate.gateway.registry import HandlerFactory, PolicyFactory
    from metergate.gateway.upstream import Upstream

_log = logging.getLogger("metergate.gateway")

_TEMPLATES = {
    "urlForwardHandler": ("baseUrl",),
    "urlRewriteHandler": ("rewritePattern",),
}
"""The options of built-in handlers that are templates, in which ``$env(...)`` has another form."""


@dataclass(frozen=True, slots=True)
class Project:
    """A project without errors, ready to run. ``resources`` are the policies and handlers with a life cycle."""

    directory: Path
    routes: tuple[Route, ...]
    router: Router
    hooks: RuntimeHooks
    policies: Mapping[str, NamedPolicy]
    cors: Mapping[str, CorsPolicy]
    environment: Mapping[str, str]
    resources: tuple[object, ...] = ()
    _started: list[object] = field(default_factory=list, repr=False, compare=False)

    async def start(self) -> None:
        """Start every resource, in each worker and on its event loop. Where one fails, those before are stopped."""
        try:
            for resource in self.resources:
                self._started.append(resource)
                if (start := getattr(resource, "start", None)) is not None:
                    await start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop every resource that was started, the last one first. What one raises is logged and keeps no other up."""
        while self._started:
            resource = self._started.pop()
            try:
                if (stop := getattr(resource, "stop", None)) is not None:
                    await stop()
            except Exception:  # noqa: BLE001  # whatever it is, the others have to be stopped
                _log.exception("stopping %r failed", resource)


def load_project(
    directory: Path | str,
    *,
    backends: Backends,
    upstream: Upstream,
    environment: Mapping[str, str] | None = None,
    strict: bool = False,
    policies: Mapping[str, PolicyFactory] | None = None,
    policy_types: Mapping[str, str] | None = None,
    handlers: Mapping[str, HandlerFactory] | None = None,
) -> tuple[Project | None, list[Finding]]:
    """The project in that folder, and everything wrong or doubtful in it; None where anything is an error.

    ``environment`` is what `$env` reads (`environment.read_environment` by default); under ``strict`` every warning
    is an error. ``policies`` and ``handlers`` are the built-in ones by export, ``policy_types`` the export of a
    ``policyType``. Modules of the project are imported, nothing is started.
    """
    directory = Path(directory).resolve()
    if (wrong := _no_project(directory)) is not None:
        return None, [wrong]
    file = read_env_file(directory)
    variables = {**file.values, **os.environ} if environment is None else dict(environment)
    runtime_environment.bind(variables)
    workshop = _workshop(directory, variables, backends, upstream, policies, policy_types, handlers)
    workshop.origins = Origins(
        variables, _lines(file, variables, {} if environment is not None else os.environ)
    )
    workshop.findings += file.findings
    workshop.findings += (
        workshop.origins.blamed(finding, f"$env({name})") for name, finding in misspelt(variables)
    )
    if (wrong := webhook.examine(variables)) is not None:
        workshop.findings.append(workshop.origins.blamed(wrong, f"$env({webhook.VARIABLE})"))
    project = _Loading(workshop).project()
    findings = strictly(workshop.findings) if strict else workshop.findings
    findings = list(dict.fromkeys(findings))
    refused = any(finding.severity == "error" for finding in findings)
    return (None if refused else project), findings


def _no_project(directory: Path) -> Finding | None:
    """What is wrong with a folder that nobody can have meant as a project."""
    if not directory.is_dir():
        message = f"{directory} is not a folder."
    elif not (directory / "config").is_dir():
        message = f"{directory} is not a project: there is no config/ in it."
    else:
        return None
    above = next((each for each in directory.parents[:2] if (each / "config").is_dir()), None)
    fix = (
        "Name the folder of a project"
        if above is None
        else f"Did you mean {above}? Name the folder of a project"
    )
    return Finding("error", "", message, f"{fix} with --project DIR.")


def _lines(file: EnvFile, variables: Mapping[str, str], process: Mapping[str, str]) -> dict[str, int]:
    """The lines of `.env` that count: nothing else has set those variables."""
    return {
        name: line
        for name, line in file.lines.items()
        if name not in process and variables.get(name) == file.values[name]
    }


def _workshop(
    directory: Path,
    variables: Mapping[str, str],
    backends: Backends,
    upstream: Upstream,
    policies: Mapping[str, PolicyFactory] | None,
    policy_types: Mapping[str, str] | None,
    handlers: Mapping[str, HandlerFactory] | None,
) -> Workshop:
    from metergate.gateway.handlers import BUILTIN as BUILTIN_HANDLERS
    from metergate.gateway.policies import BUILTIN as BUILTIN_POLICIES
    from metergate.gateway.policies import POLICY_TYPES

    return Workshop(
        directory,
        variables,
        backends,
        upstream,
        BUILTIN_POLICIES if policies is None else policies,
        POLICY_TYPES if policy_types is None else policy_types,
        BUILTIN_HANDLERS if handlers is None else handlers,
        ProjectModules(directory),
    )


class _Loading:
    """One pass over a project's files, in the order in which each needs what was read before."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._catalog = Catalog(workshop)
        workshop.policy = self._catalog.policy
        self._cors: dict[str, CorsPolicy] = {}
        self._read_cors: set[str] = set()

    def _say(self, findings: Iterable[Finding]) -> None:
        self._workshop.findings += findings

    def project(self) -> Project:
        workshop = self._workshop
        duplicates, findings = read_settings(workshop.directory)
        self._say(findings)
        document, findings = read_policies_document(workshop.directory)
        self._say(findings)
        hooks = workshop.modules.runtime_hooks(workshop.findings.append)
        self._catalog.read(document)
        self._read_cors_policies(document)
        self._catalog.build_all()
        definitions, all_read = self._definitions()
        routes = [self._route(definition) for definition in definitions]
        may_authenticate = bool(hooks.request or hooks.pre_routing)
        self._say(
            audit(
                self._catalog,
                definitions,
                duplicates=duplicates,
                hooks_may_authenticate=may_authenticate,
                all_read=all_read,
            )
        )
        return self._assembled(list(zip(definitions, routes, strict=True)), hooks)

    def _read_cors_policies(self, document: Document) -> None:
        given = document.value.get("corsPolicies")
        written, findings = resolve(given, self._workshop.variables)
        self._cors, about = read_cors_policies(written)
        self._say(finding.at(file=POLICIES, prefix="$.corsPolicies") for finding in findings)
        report = self._workshop.reporter(POLICIES, "$.corsPolicies", written=given)
        for finding in about:
            report(finding)
        self._read_cors = set(self._cors) | {
            each["name"]
            for each in (written if isinstance(written, list) else ())
            if isinstance(each, Mapping) and isinstance(each.get("name"), str)
        }

    def _definitions(self) -> tuple[list[RouteDefinition], bool]:
        """The routes, and whether these are all: of a file with errors nobody can tell what else was meant."""
        documents, findings = read_route_documents(self._workshop.directory)
        definitions: list[RouteDefinition] = []
        for document in documents:
            found, about = read_routes(document)
            definitions += found
            findings += about
        self._say(findings)
        all_read = all(finding.severity != "error" for finding in findings)
        if all_read and not definitions:
            message = "The project has no routes: every request is answered with 404."
            fix = 'Put "x-zuplo-route" into a method of a path.'
            self._say([Finding("warning", "$.paths", message, fix, documents[0].name)])
        return definitions, all_read

    def _route(self, definition: RouteDefinition) -> Route | None:
        handler, resource = self._handler(definition)
        cors = self._cors.get(definition.cors)
        if cors is None and definition.cors not in self._read_cors:
            fix = nearest(definition.cors, self._cors) or f'Define it in "corsPolicies" of {POLICIES}.'
            path = child(definition.path, "corsPolicy")
            message = f'There is no CORS policy "{definition.cors}".'
            self._say([Finding("error", path, message, fix, definition.file)])
        if handler is None:
            return None
        return Route(
            method=definition.method,
            path=definition.pattern.source,
            handler=handler,
            inbound=self._policies(definition.inbound, "inbound"),
            outbound=self._policies(definition.outbound, "outbound"),
            cors=cors,
            operation_id=definition.operation_id,
            raw=definition.raw,
            file=definition.file,
            handler_resource=resource,
            label=definition.label,
        )

    def _policies(self, names: Sequence[str], direction: str) -> tuple[NamedPolicy, ...]:
        """Those that can run that way; the audit has said what is wrong with the others."""
        built = (self._catalog.built.get(name) for name in names)
        return tuple(each for each in built if each is not None and getattr(each, direction) is not None)

    def _handler(self, definition: RouteDefinition) -> tuple[Handler | None, object]:
        """The handler, and what of it has a life cycle."""
        if not definition.handler_export or not definition.handler_module:
            return None, None
        path = child(definition.path, "handler")
        if not is_builtin(definition.handler_module):
            self._resolved(definition, path, ())
            return self._own_handler(definition, path)
        factory = self._workshop.handlers.get(definition.handler_export)
        if factory is None:
            known = self._workshop.handlers
            fix = nearest(definition.handler_export, known) or f"There are {', '.join(sorted(known))}."
            message = f'This gateway has no "{definition.handler_export}".'
            self._say([Finding("error", f"{path}.export", message, fix, definition.file)])
            return None, None
        templates = _TEMPLATES.get(definition.handler_export, ())
        options = self._resolved(definition, path, templates)
        report = self._workshop.reporter(
            definition.file, f"{path}.options", written=definition.options, templates=templates
        )
        handler = self._workshop.build(factory, options, definition.label, report)
        return handler, _resource(handler)

    def _resolved(self, definition: RouteDefinition, path: str, templates: Sequence[str]) -> Any:
        options, findings = resolve(definition.options, self._workshop.variables, untouched=templates)
        self._say(finding.at(file=definition.file, prefix=f"{path}.options") for finding in findings)
        return options

    def _own_handler(self, definition: RouteDefinition, path: str) -> tuple[Handler | None, object]:
        from metergate.gateway.handlers import function

        report = self._workshop.reporter(definition.file, path)
        found: Any = self._workshop.modules.load(definition.handler_module, definition.handler_export, report)
        if found is None:
            return None, None
        if not callable(found):
            message = f'"{definition.handler_export}" of that module cannot be called.'
            report(Finding("error", "$.export", message, "Name a function (request, context)."))
            return None, None
        return function.wrap(found), _resource(found)

    def _assembled(self, pairs: list[tuple[RouteDefinition, Route | None]], hooks: RuntimeHooks) -> Project:
        made = [(definition, route) for definition, route in pairs if route is not None]
        resources = [policy.resource for policy in self._catalog.built.values()]
        resources += (route.handler_resource for _, route in made)
        distinct = {id(resource): resource for resource in resources if resource is not None}
        return Project(
            self._workshop.directory,
            tuple(route for _, route in made),
            Router((definition.method, definition.pattern, route) for definition, route in made),
            hooks,
            self._catalog.built,
            self._cors,
            self._workshop.variables,
            tuple(distinct.values()),
        )


def _resource(value: object) -> object:
    """``value`` where it has a life cycle, else None."""
    return value if hasattr(value, "start") or hasattr(value, "stop") else None
