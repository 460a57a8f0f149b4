"""The JSON files of a project, read with their findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metergate.errors import Finding, error, warning
from metergate.gateway import jsonc
from metergate.policy.fields import Fields, kind

POLICIES = "config/policies.json"
ROUTES = "config/*.oas.json"
SETTINGS = "zuplo.jsonc"

_SETTINGS_KEYS = (
    "version",
    "compatibilityDate",
    "projectType",
    "allowDuplicateRoutes",
    "allowHostHeaderOverride",
)


@dataclass(frozen=True, slots=True)
class Document:
    """One file: ``name`` relative to the project, and the object it holds. ``broken``: nobody can tell what it holds."""

    name: str
    value: Mapping[str, Any]
    broken: bool = False


def read_document(directory: Path, name: str) -> tuple[Document | None, list[Finding]]:
    """The object in that file, comments and trailing commas allowed. No document where it holds none."""
    try:
        text = (directory / name).read_text(encoding="utf-8")
        value = jsonc.parse(text)
    except jsonc.JsoncError as wrong:
        place = f"line {wrong.line}, column {wrong.column}"
        return None, [Finding("error", wrong.path, f"This is not JSON: {place}: {wrong.message}.", file=name)]
    except UnicodeDecodeError:
        return None, [Finding("error", "", "The file cannot be read: it is not UTF-8.", file=name)]
    except OSError as failure:
        return None, [Finding("error", "", f"The file cannot be read: {failure.strerror}.", file=name)]
    if not isinstance(value, Mapping):
        return None, [Finding("error", "$", f"The file has to hold an object, not {kind(value)}.", file=name)]
    return Document(name, value), [
        Finding(
            "warning",
            each.path,
            f"The key is here a second time, at line {each.line}, column {each.column}; the first one is lost.",
            "Remove one of them.",
            name,
        )
        for each in jsonc.duplicates(text)
    ]


def read_policies_document(directory: Path) -> tuple[Document, list[Finding]]:
    """``config/policies.json``; an empty document where there is none or it is broken."""
    empty = Document(POLICIES, {})
    if not (directory / POLICIES).is_file():
        message = "The file is not there: the project has no policies, so nothing is metered."
        return empty, [Finding("warning", "", message, 'Write {"policies": []}.', POLICIES)]
    document, findings = read_document(directory, POLICIES)
    if document is None:
        return replace(empty, broken=True), findings
    fields = Fields(document.value)
    if not isinstance(document.value.get("policies", []), list):
        found = kind(document.value["policies"])
        fields.refuse(
            "policies", f'"policies" has to be a list, not {found}.', 'Write "policies": [{"name": …}, …].'
        )
    fields.name_unknown(("policies", "corsPolicies", "$schema"), "key")
    return document, findings + [replace(finding, file=POLICIES) for finding in fields.findings]


def read_route_documents(directory: Path) -> tuple[list[Document], list[Finding]]:
    """Every ``config/*.oas.json`` in alphabetical order."""
    folder, pattern = ROUTES.split("/")
    names = sorted(path.name for path in (directory / folder).glob(pattern) if path.is_file())
    if not names:
        fix = "Write config/routes.oas.json, an OpenAPI document."
        return [], [Finding("error", "", "There is no such file: the project has no routes.", fix, ROUTES)]
    documents: list[Document] = []
    findings: list[Finding] = []
    for name in names:
        document, found = read_document(directory, f"{folder}/{name}")
        findings += found
        if document is not None:
            documents.append(document)
    return documents, findings


def read_settings(directory: Path) -> tuple[bool, list[Finding]]:
    """Whether ``zuplo.jsonc`` allows duplicate routes; everything else in it changes nothing here."""
    if not (directory / SETTINGS).is_file():
        return False, []
    document, findings = read_document(directory, SETTINGS)
    if document is None:
        return False, findings
    version = document.value.get("version", 1)
    found: list[Finding] = []
    if version != 1 or isinstance(version, bool):
        found.append(
            error("$.version", f'"version" is {kind(version)}: only 1 is known.', 'Write "version": 1.')
        )
    fields = Fields(document.value)
    fields.name_unknown(_SETTINGS_KEYS, "key")
    duplicates = document.value.get("allowDuplicateRoutes", False)
    if not isinstance(duplicates, bool):
        message = f'"allowDuplicateRoutes" has to be true or false, not {kind(duplicates)}.'
        found.append(warning("$.allowDuplicateRoutes", message))
    return duplicates is True, findings + [replace(each, file=SETTINGS) for each in found + fields.findings]
