"""Where a variable got its value: what is wrong with a value is said there, and not at the ``$env`` that reads it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from metergate.errors import Finding
from metergate.policy.fields import child

ENV = re.compile(r"\$env\(\s*([A-Za-z_][A-Za-z0-9_]*)\s*\)")
TEMPLATE = re.compile(r"\$\{\s*env\.([A-Za-z_][A-Za-z0-9_]*)\s*\}")
FILE = ".env"
PROCESS = "environment"


@dataclass(frozen=True, slots=True)
class Origins:
    """The variables, and the line of `.env` for those that have their value from there."""

    variables: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)

    def blamed(self, finding: Finding, written: Any, templates: Collection[str] = ()) -> Finding:
        """The finding about a value in ``written`` (``$``), moved to the variable that this value is.

        Where variables are only a part of the value, it stays and names them. What is said of an option's name stays.
        Members named in ``templates`` read ``${env.NAME}``, all others ``$env(NAME)``.
        """
        text = dict(_texts(written, "$")).get(finding.path, "")
        form = TEMPLATE if finding.path.removeprefix("$.") in templates else ENV
        names = [name for name in form.findall(text) if name in self.variables]
        if finding.file or not names or finding.message.endswith(" no effect."):
            return finding
        if form.fullmatch(text.strip()):
            [name] = names
            fix = finding.fix if self.variables[name].strip() else f"Give {name} a value."
            line = self.lines.get(name)
            file, path = (PROCESS, name) if line is None else (FILE, f"line {line}, {name}")
            return replace(finding, file=file, path=path, fix=fix)
        holds = ", ".join(f"{name} ({self._place(name)})" for name in dict.fromkeys(names))
        return replace(finding, message=f"{finding.message} It holds {holds}.")

    def _place(self, name: str) -> str:
        return f"{FILE}, line {self.lines[name]}" if name in self.lines else f"from the {PROCESS}"


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every text that may hold a variable, by its path."""
    if isinstance(value, str):
        if "$" in value:
            yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _texts(each, child(path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _texts(each, child(path, index))
