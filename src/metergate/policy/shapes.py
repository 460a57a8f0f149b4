"""The five shapes in which policy objects are in circulation, read into one.

A  ``{name, policyType, handler: {export, module, options}}``: the documented one, the only one under --strict
B  ``{type, handler: "$import(@zuplo/runtime).OpenMeterInboundPolicy", options}``: named after its type
C  ``{name, policyType, options}``
D  ``{name, export, module, options}``
E  ``{export, module, options}``: the caller gives the name

Shapes hold policies of every type; only C and D of ``openmeter-inbound`` have a half of their own that is
filled in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from metergate.errors import Finding
from metergate.policy.fields import Fields, kind, shown

POLICY_TYPE = "openmeter-inbound"
EXPORT = "OpenMeterInboundPolicy"
RUNTIME = "$import(@zuplo/runtime)"

Shape = Literal["A", "B", "C", "D", "E"]

_KEYS: dict[Shape, tuple[str, ...]] = {
    "A": ("name", "policyType", "handler", "options"),  # options there are refused, not unknown
    "B": ("type", "handler", "options", "name"),
    "C": ("name", "policyType", "options"),
    "D": ("name", "export", "module", "options", "policyType"),
    "E": ("export", "module", "options", "policyType"),
}
_HANDLER = re.compile(r"\s*(\$import\([^()]+\))\s*\.\s*([A-Za-z_$][\w$]*)\s*")
_SHAPE_A = '{"name": ..., "policyType": ..., "handler": {"export": ..., "module": ..., "options": {...}}}'


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A policy object of any shape. ``options_path`` is where its options stand in the document
    (``$.handler.options``).

    ``policy_type``, ``export`` and ``module`` are empty where the shape does not say and the type is not
    ours. ``options`` is as written (``{}`` where left out), not checked.
    """

    name: str
    policy_type: str
    export: str
    module: str
    options: Any
    shape: Shape
    options_path: str

    @property
    def is_openmeter(self) -> bool:
        """Whether this is the built-in ``openmeter-inbound`` policy. What it exports decides, as in the
        original."""
        return self.export == EXPORT and self.module == RUNTIME


def read_shape(document: Any, *, name: str | None = None) -> tuple[PolicyDocument | None, list[Finding]]:
    """The policy in ``document`` and all findings about its shape; None where one is an error.

    ``name`` is for a document that brings none of its own (shape E). Every shape but A gets one warning,
    which is an error under ``--strict``. Paths start at the document (``$``).
    """
    if not isinstance(document, Mapping):
        return None, [
            Finding(
                "error", "$", f"A policy has to be an object, not {kind(document)}.", f"Write {_SHAPE_A}."
            )
        ]
    fields = Fields(document)
    shape = _shape(document)
    if shape is None:
        message = "This is no policy in any shape that is known: it has no handler, export or policyType."
        return None, [Finding("error", "$", message, f"Write {_SHAPE_A}.")]
    read = _SHAPES[shape](fields, name)
    fields.name_unknown(_KEYS[shape], "key", _hints(shape))
    if shape != "A":
        fields.findings.append(_shape_warning(read))
    refused = any(finding.severity == "error" for finding in fields.findings)
    findings = [finding.at(policy=read.name) for finding in fields.findings]
    return (None if refused else read), findings


def _shape(document: Mapping[str, Any]) -> Shape | None:
    if "handler" in document:
        return "B" if isinstance(document["handler"], str) else "A"
    if "export" in document or "module" in document:
        return "D" if "name" in document else "E"
    return "C" if "policyType" in document else None


def _read_a(fields: Fields, name: str | None) -> PolicyDocument:
    handler = fields.values["handler"]
    inner = Fields(handler if isinstance(handler, Mapping) else {}, "$.handler")
    if not isinstance(handler, Mapping):
        fields.refuse("handler", f'"handler" has to be an object, not {kind(handler)}.', f"Write {_SHAPE_A}.")
    else:
        inner.name_unknown(("export", "module", "options"), "key")
    export, module = _required(inner, "export"), _required(inner, "module")
    fields.include(inner.findings if isinstance(handler, Mapping) else ())
    if "options" in fields.values:
        fields.refuse(
            "options",
            "The options stand beside the handler, where nobody reads them.",
            'Move them into "handler".',
        )
    policy_type = _text(fields, "policyType")
    if not policy_type and isinstance(fields.values.get("policyType", ""), str):
        policy_type = _type_of(export, module)
        fix = f'Write "policyType": "{policy_type}".' if policy_type else "Write the type of the policy."
        fields.doubt("policyType", '"policyType" is missing.', fix)
    return PolicyDocument(
        _policy_name(fields, name),
        policy_type,
        export,
        module,
        inner.values.get("options", {}),
        "A",
        "$.handler.options",
    )


def _read_b(fields: Fields, name: str | None) -> PolicyDocument:
    handler = fields.values["handler"]
    match = _HANDLER.fullmatch(handler)
    if match is None:
        fields.refuse("handler", f"{shown(handler)} names no handler.", f'Write "{RUNTIME}.{EXPORT}".')
    module, export = (match[1], match[2]) if match else ("", "")
    policy_type = _required(fields, "type")
    own = _text(fields, "name") or policy_type or name or ""
    return PolicyDocument(own, policy_type, export, module, _options(fields), "B", "$.options")


def _read_c(fields: Fields, name: str | None) -> PolicyDocument:
    policy_type = _required(fields, "policyType")
    ours = policy_type == POLICY_TYPE
    export, module = (EXPORT, RUNTIME) if ours else ("", "")
    return PolicyDocument(
        _policy_name(fields, name), policy_type, export, module, _options(fields), "C", "$.options"
    )


def _read_d(fields: Fields, name: str | None) -> PolicyDocument:
    export, module = _required(fields, "export"), _required(fields, "module")
    policy_type = _text(fields, "policyType") or _type_of(export, module)
    shape: Shape = "D" if "name" in fields.values else "E"
    return PolicyDocument(
        _policy_name(fields, name), policy_type, export, module, _options(fields), shape, "$.options"
    )


_SHAPES = {"A": _read_a, "B": _read_b, "C": _read_c, "D": _read_d, "E": _read_d}


def _type_of(export: str, module: str) -> str:
    return POLICY_TYPE if (export, module) == (EXPORT, RUNTIME) else ""


def _options(fields: Fields) -> Any:
    return fields.values.get("options", {})


def _text(fields: Fields, key: str) -> str:
    """The string under ``key``; empty where it is left out. Anything else is refused."""
    value = fields.values.get(key, "")
    if isinstance(value, str):
        return value.strip()
    fields.refuse(key, f'"{key}" has to be a string, not {kind(value)}.')
    return ""


def _required(fields: Fields, key: str) -> str:
    text = _text(fields, key)
    if not text and isinstance(fields.values.get(key, ""), str):
        example = {"export": EXPORT, "module": RUNTIME}.get(key, POLICY_TYPE)
        state = "empty" if key in fields.values else "missing"
        fields.refuse(key, f'"{key}" is {state}.', f'Write "{key}": "{example}".')
    return text


def _policy_name(fields: Fields, name: str | None) -> str:
    own = _text(fields, "name") or name or ""
    if not own and isinstance(fields.values.get("name", ""), str):
        message = "The policy has no name, so no route can use it."
        fields.refuse("name", message, 'Write "name": "my-openmeter-inbound-policy".')
    return own


def _hints(shape: Shape) -> dict[str, str]:
    if shape == "A":
        return {key: f'"handler" has "{key}" already; remove this one.' for key in ("export", "module")}
    return {"policyType": 'Beside "type" it means nothing; remove it.'} if shape == "B" else {}


def _shape_warning(read: PolicyDocument) -> Finding:
    wanted = shown(read.name), shown(read.policy_type), shown(read.export), shown(read.module)
    fix = 'Write {{"name": {}, "policyType": {}, "handler": {{"export": {}, "module": {}, "options": ...}}}}.'
    message = f"The policy is written in shape {read.shape}, a short form; it is read as if in full."
    return Finding("warning", "$", message, fix.format(*wanted))
