"""The variables of a project: `.env` under the process's own environment, and ``$env(NAME)`` in its JSON.

``$env(NAME)`` alone in a string is the variable, or `Unset` where there is none; inside other text it is put
in, an unset one as nothing. What it gives is always a string.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dotenv.parser import Original, parse_stream

from metergate.errors import Finding, error, nearest, warning
from metergate.gateway.origins import ENV as _ENV
from metergate.gateway.origins import FILE
from metergate.gateway.origins import TEMPLATE as _TEMPLATE
from metergate.policy.fields import Unset, child

_OURS = "METERGATE_"
_READ = ("METERGATE_OPENMETER_URL", "METERGATE_SPOOL", "METERGATE_OPENMETER_TOKEN")
_ANY_ENV = re.compile(r"\$env\b[^\s\"'/]*", re.IGNORECASE)
_PROSE = frozenset({"description", "summary", "title", "example", "examples", "default", "enum"})
_RIGHT = "Write $env(NAME), NAME being letters, digits and _."


class Environment(Mapping[str, str]):
    """The variables as the project's modules see them (`metergate.runtime.environment`): a read-only mapping.

    One per process. Until a project is loaded it reads the process's environment, then also the `.env`.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def bind(self, values: Mapping[str, str]) -> None:
        """Serve these from now on."""
        self._values = MappingProxyType(dict(values))

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<environment of {len(self)} variables>"


environment = Environment(os.environ)


def read_environment(directory: Path, process: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of the project in ``directory``; what ``process`` has wins over its `.env`."""
    return {**read_env_file(directory).values, **process}


@dataclass(frozen=True, slots=True)
class EnvFile:
    """What a `.env` sets, and in which line; ``findings`` are about what in it sets nothing."""

    values: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def read_env_file(directory: Path) -> EnvFile:
    """The `.env` of that folder. No file sets nothing.

    Values are taken as they are: a ``$`` in a secret is not another variable.
    """
    path = directory / FILE
    if not path.is_file():
        return EnvFile()
    try:
        with path.open(encoding="utf-8-sig") as stream:
            bindings = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as failure:
        return EnvFile(findings=[_in_file(error("", f"The file cannot be read: {_cause(failure)}."))])
    read = EnvFile()
    for binding in bindings:
        line = _line(binding.original)
        if binding.error or (binding.key is not None and binding.value is None):
            found = warning(f"line {line}", "This sets no variable.", "Write NAME=value.")
            read.findings.append(_in_file(found))
        elif binding.key is not None and binding.value is not None:
            read.values[binding.key] = binding.value
            read.lines[binding.key] = line
    return read


def _line(original: Original) -> int:
    """Where it stands; what was parsed begins with the empty lines before it."""
    text = original.string
    return original.line + text[: len(text) - len(text.lstrip())].count("\n")


def misspelt(variables: Mapping[str, str]) -> Iterator[tuple[str, Finding]]:
    """Each variable that looks like one of ours and is none, with a warning (``$``): what it was to say has no effect."""
    known = {name.removeprefix(_OURS): name for name in _READ}
    for name in variables:
        rest = name.removeprefix(_OURS)
        if name in _READ or rest == name:
            continue
        meant = [each for each in known if each.endswith(f"_{rest}")] + get_close_matches(
            rest, known, cutoff=0.7
        )
        if meant:
            fix = f"Did you mean {known[meant[0]]}?"
            yield name, warning("$", "Nothing reads this variable, so it has no effect here.", fix)


def _cause(failure: OSError | UnicodeDecodeError) -> str:
    return "it is not UTF-8" if isinstance(failure, UnicodeDecodeError) else str(failure.strerror)


def _in_file(finding: Finding) -> Finding:
    return replace(finding, file=FILE)


def resolve(
    value: Any, variables: Mapping[str, str], path: str = "$", *, untouched: Collection[str] = ()
) -> tuple[Any, list[Finding]]:
    """``value`` with every ``$env(NAME)`` at any depth put in; ``path`` is where it stands.

    Members named in ``untouched`` are templates (``baseUrl``, ``rewritePattern``), which have their own form; beside
    them it is not doubted either.
    """
    findings: list[Finding] = []
    if isinstance(value, Mapping) and untouched:
        kept = {key: each for key, each in value.items() if key in untouched or _is_template(each)}
        rest = {key: each for key, each in value.items() if key not in kept}
        return {**_put_in(rest, variables, path, findings), **kept}, findings
    return _put_in(value, variables, path, findings), findings


def _is_template(value: Any) -> bool:
    return isinstance(value, str) and _TEMPLATE.fullmatch(value.strip()) is not None


def _put_in(value: Any, variables: Mapping[str, str], path: str, findings: list[Finding]) -> Any:
    if isinstance(value, str):
        return _text(value, variables, path, findings) if "$" in value else value
    if isinstance(value, Mapping):
        findings += [_misplaced(path, key) for key in value if _ENV.search(key)]
        return {key: _put_in(each, variables, child(path, key), findings) for key, each in value.items()}
    if isinstance(value, list):
        return [_put_in(each, variables, child(path, index), findings) for index, each in enumerate(value)]
    return value


def _text(text: str, variables: Mapping[str, str], path: str, findings: list[Finding]) -> str | Unset:
    alone = _ENV.fullmatch(text.strip())
    if alone:
        name = alone[1]
        return variables[name] if name in variables else Unset(name)
    template = _TEMPLATE.fullmatch(text.strip())
    if template:
        message = f"{text.strip()} would be used as it stands here."
        findings.append(warning(path, message, f"Write $env({template[1]})."))
        return text
    rest = _ENV.sub("", text)
    if wrong := _ANY_ENV.search(rest):
        findings.append(error(path, f"{wrong[0]} is not a variable.", _RIGHT))
    for name in _ENV.findall(text):
        if name not in variables:
            message = f"The environment variable {name} is not set and leaves a gap."
            findings.append(warning(path, message, nearest(name, variables) or f"Set {name}."))
    return _ENV.sub(lambda found: variables.get(found[1], ""), text)


def misplaced(value: Any, path: str = "$", *, allowed: Collection[str] = ()) -> list[Finding]:
    """An error for every ``$env`` in ``value``, but not below the members whose paths are in ``allowed``.

    Prose of an OpenAPI document (descriptions, examples) may speak of it.
    """
    if path in allowed:
        return []
    if isinstance(value, str):
        return [_misplaced(path, value)] if _ENV.search(value) else []
    findings: list[Finding] = []
    if isinstance(value, Mapping):
        for key, each in value.items():
            findings += [_misplaced(path, key)] if _ENV.search(key) else []
            if key not in _PROSE or (isinstance(each, str) and _ENV.fullmatch(each.strip())):
                findings += misplaced(each, child(path, key), allowed=allowed)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            findings += misplaced(each, child(path, index), allowed=allowed)
    return findings


def _misplaced(path: str, text: str) -> Finding:
    found = _ENV.search(text)
    shown = found[0] if found else "$env(…)"
    return error(path, f"{shown} cannot stand here.", "It may stand in options and in CORS policies.")
