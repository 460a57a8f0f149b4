"""The policies of a project by name: read from ``config/policies.json``, built when a route or composite needs them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from typing import Any

from metergate.errors import Finding, nearest
from metergate.gateway.documents import POLICIES, Document
from metergate.gateway.environment import misplaced, resolve
from metergate.gateway.model import NamedPolicy
from metergate.gateway.modules import is_builtin
from metergate.gateway.workshop import Workshop
from metergate.policy.fields import child
from metergate.policy.retired import is_retired, retired
from metergate.policy.shapes import PolicyDocument, read_shape

OPENMETER_URL = "METERGATE_OPENMETER_URL"
"""The environment variable with the `apiUrl` of policies that name none: a configuration written for OpenMeter's cloud
runs against another OpenMeter without a change to its JSON."""

_SECRET = re.compile(
    r"(?:api|secret|private|signing|access)_?key|secret|client_?secret|password|passwd|token|credentials",
    re.IGNORECASE,
).fullmatch
_AUTHENTICATES = re.compile(r"auth|jwt|api-?key", re.IGNORECASE).search
_OWN_CODE = ("custom-code-inbound", "custom-code-outbound")
_COMPOSITES = ("CompositeInboundPolicy", "CompositeOutboundPolicy")


@dataclass(frozen=True, slots=True)
class PolicyDefinition:
    """A policy as it is defined: the document and where it stands in ``config/policies.json``."""

    document: PolicyDocument
    path: str
    export: str
    """Of the built-in runtime; empty for the project's own code."""

    @property
    def name(self) -> str:
        return self.document.name

    @property
    def options_path(self) -> str:
        return self.path + self.document.options_path[1:]

    @property
    def is_openmeter(self) -> bool:
        return self.export == "OpenMeterInboundPolicy"

    @property
    def checks_entitlements(self) -> bool:
        options = self.document.options
        return (
            self.is_openmeter and isinstance(options, Mapping) and bool(options.get("requiredEntitlements"))
        )

    @property
    def may_authenticate(self) -> bool:
        """Whether ``request.user`` may be set by it: an authentication policy, or code of the project."""
        return not self.export or self.export.startswith("CustomCode") or bool(_AUTHENTICATES(self.export))

    @property
    def members(self) -> tuple[str, ...]:
        """The policies that a composite runs in its place, by name."""
        options = self.document.options
        if self.export not in _COMPOSITES or not isinstance(options, Mapping):
            return ()
        names = options.get("policies")
        return tuple(each for each in names if isinstance(each, str)) if isinstance(names, list) else ()


class Catalog:
    """Every policy of the project. ``built`` has those that could be, by name."""

    def __init__(self, workshop: Workshop) -> None:
        self.definitions: dict[str, PolicyDefinition] = {}
        self.built: dict[str, NamedPolicy] = {}
        self._workshop = workshop
        self._tried: set[str] = set()
        self._broken: set[str] = set()
        """Names that stand in the file with an error, so that a route that uses one is not blamed too."""
        self._unreadable = False

    def read(self, document: Document) -> None:
        """Take over every policy of ``config/policies.json``."""
        written = document.value.get("policies", [])
        self._unreadable = document.broken or not isinstance(written, list)
        allowed: list[str] = []
        for index, each in enumerate(written if isinstance(written, list) else ()):
            path = child("$.policies", index)
            allowed += (f"{path}.handler.options", f"{path}.options")
            self._read_policy(each, path, document.name)
        allowed += () if isinstance(written, list) else ("$.policies",)
        value = {key: each for key, each in document.value.items() if key != "corsPolicies"}
        found = misplaced(value, allowed=allowed)
        self._workshop.findings += (replace(finding, file=document.name) for finding in found)

    def _read_policy(self, value: Any, path: str, file: str) -> None:
        document, findings = read_shape(value)
        report = self._workshop.reporter(file, path)
        for finding in findings:
            report(finding)
        if document is None:
            name = value.get("name", value.get("type")) if isinstance(value, Mapping) else None
            if isinstance(name, str):
                self._broken.add(name.strip())
        elif document.name in self.definitions:
            message = (
                f'A policy "{document.name}" is there already, at {self.definitions[document.name].path}.'
            )
            fix = "Give it a name of its own."
            report(replace(Finding("error", child("$", "name"), message, fix), policy=document.name))
        else:
            export = self._export(document)
            self.definitions[document.name] = PolicyDefinition(document, path, export)
            self._warn_of_secrets(self.definitions[document.name])

    def _export(self, document: PolicyDocument) -> str:
        if document.module and not is_builtin(document.module):
            return ""
        types = self._workshop.policy_types
        return document.export or types.get(document.policy_type) or document.policy_type

    def _warn_of_secrets(self, definition: PolicyDefinition) -> None:
        for path, key in _secrets(definition.document.options, definition.options_path):
            variable = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).upper()
            variable = f"OPENMETER_{variable}" if definition.is_openmeter else variable
            message = f'"{key}" stands in the file for everybody who can read it.'
            fix = f'Write "{key}": "$env({variable})", and set that variable.'
            self._workshop.findings.append(Finding("warning", path, message, fix, POLICIES, definition.name))

    def build_all(self) -> None:
        """Build each policy, also those that no route uses: they are checked, and code may invoke them."""
        for name in self.definitions:
            self.policy(name)

    def has(self, name: str) -> bool:
        """Whether the file defines it, be it with errors; for all that is known, where the file cannot be read."""
        return name in self.definitions or name in self._broken or self._unreadable

    def unknown(self, name: str) -> tuple[str, str]:
        """Message and fix for a policy that is not defined."""
        fix = nearest(name, self.definitions) or f"Define it in {POLICIES}."
        return f'There is no policy "{name}".', fix

    def policy(self, name: str) -> NamedPolicy | None:
        """That policy, built at most once; None where it has errors, which were reported then, or is not there."""
        if name not in self._tried and name in self.definitions:
            self._tried.add(name)
            policy = self._build(self.definitions[name])
            if policy is not None:
                self.built[name] = policy
        return self.built.get(name)

    def _build(self, definition: PolicyDefinition) -> NamedPolicy | None:
        document, workshop = definition.document, self._workshop
        written = self._written(definition)
        report = workshop.reporter(POLICIES, definition.options_path, definition.name)
        if is_retired(document):
            report(retired(document.options))
            return None
        options, findings = resolve(written, workshop.variables)
        for finding in findings:
            report(finding)
        report = workshop.reporter(POLICIES, definition.options_path, definition.name, written=written)
        if not definition.export:
            return self._build_own(definition, options)
        factory = workshop.policies.get(definition.export)
        if factory is None:
            self._no_such_policy(definition)
            return None
        self._doubt_type(definition)
        for name, path in self._undefined_members(definition):
            report(Finding("error", path, *self.unknown(name)))
        return workshop.build(factory, options, definition.name, report)

    def _written(self, definition: PolicyDefinition) -> Any:
        """The options as they stand in the file; where they name no OpenMeter, the variable that does."""
        options = definition.document.options
        named = self._workshop.variables.get(OPENMETER_URL)
        if definition.is_openmeter and named and isinstance(options, Mapping) and "apiUrl" not in options:
            return {**options, "apiUrl": f"$env({OPENMETER_URL})"}
        return options

    def _undefined_members(self, definition: PolicyDefinition) -> Iterable[tuple[str, str]]:
        for index, name in enumerate(definition.members):
            if not self.has(name):
                yield name, child("$.policies", index)

    def _build_own(self, definition: PolicyDefinition, options: Any) -> NamedPolicy | None:
        """A policy of the project's own code."""
        from metergate.gateway.policies import customcode

        document = definition.document
        handler = f"{definition.path}.handler" if document.shape == "A" else definition.path
        report = self._workshop.reporter(POLICIES, handler, document.name)
        function = self._workshop.modules.load(document.module, document.export, report)
        if function is None:
            return None
        if not callable(function):
            message = f'"{document.export}" of that module cannot be called.'
            report(
                Finding(
                    "error", "$.export", message, "Name a function (request, context, options, policy_name)."
                )
            )
            return None
        self._doubt_type(definition)
        make = customcode.outbound if _goes_out(document.policy_type, function) else customcode.inbound
        policy = make(function, options, document.name)
        return (
            replace(policy, resource=function)
            if hasattr(function, "start") or hasattr(function, "stop")
            else policy
        )

    def _doubt_type(self, definition: PolicyDefinition) -> None:
        """A ``policyType`` that is not what runs. The export decides, so whoever reads the file is misled."""
        written, types = definition.document.policy_type, self._workshop.policy_types
        own = not definition.export
        fitting = [
            name
            for name, export in types.items()
            if (name in _OWN_CODE if own else export == definition.export)
        ]
        if written in (*fitting, "") or not fitting:
            return
        what = "is another policy's type" if written in types else "is no policy type that is known"
        fix = "Write " + " or ".join(f'"policyType": "{name}"' for name in fitting) + "."
        runs = "code of the project" if own else definition.export
        message = f'"{written}" {what}; what runs is {runs}, which the handler names.'
        report = self._workshop.reporter(POLICIES, definition.path, definition.name)
        report(Finding("warning", "$.policyType", message, fix))

    def _no_such_policy(self, definition: PolicyDefinition) -> None:
        document, workshop = definition.document, self._workshop
        by_export = bool(document.export)
        known = workshop.policies if by_export else workshop.policy_types
        written = document.export if by_export else document.policy_type
        fix = nearest(written, known) or f"There are {', '.join(sorted(known))}."
        place = "$.handler.export" if document.shape == "A" else "$.export" if by_export else "$.policyType"
        report = workshop.reporter(POLICIES, definition.path, document.name)
        what = "has no" if by_export else "has no policy type"
        report(Finding("error", place, f'This gateway {what} "{written}".', fix))


def _secrets(value: Any, path: str) -> Iterable[tuple[str, str]]:
    """Path and key of every literal under a key that names a secret."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            if (
                isinstance(each, str)
                and each.strip()
                and _SECRET(key)
                and "$env(" not in each
                and "${env." not in each
            ):
                yield child(path, key), key
            yield from _secrets(each, child(path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _secrets(each, child(path, index))


def _goes_out(policy_type: str, function: Any) -> bool:
    """By its type; where that does not say, by the name of the function's first parameter."""
    if policy_type.endswith(("-inbound", "-outbound")):
        return policy_type.endswith("-outbound")
    try:
        first: Parameter | None = next(iter(signature(function).parameters.values()), None)
    except (TypeError, ValueError):
        return False
    return first is not None and first.name == "response"
