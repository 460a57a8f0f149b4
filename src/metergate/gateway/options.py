"""Reads the options object of a policy or handler: every wrong value becomes a finding, all of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metergate.errors import error
from metergate.policy.fields import Fields, Unset, child, kind

if TYPE_CHECKING:
    from metergate.gateway.model import Site


class Options(Fields):
    """One options object under the path ``$``; an absent one reads as empty.

    Each getter checks one option, notes what is wrong with it and returns its default then. `report` hands all
    findings over, with a warning for every name that no getter asked for.
    """

    __slots__ = ("_known",)

    def __init__(self, options: Any, path: str = "$") -> None:
        super().__init__(options if isinstance(options, Mapping) else {}, path)
        self._known: dict[str, None] = {}
        if options is not None and not isinstance(options, Mapping):
            self.findings.append(error(path, f"This has to be an object, not {kind(options)}.", "Write {}."))

    def given(self, key: str, default: object) -> bool:
        self._known[key] = None
        return super().given(key, default)

    def tolerate(self, *keys: str) -> None:
        """These options of the original are known and change nothing here."""
        self._known.update(dict.fromkeys(keys))

    def required(self, key: str, example: str) -> str:
        """A non-empty string that has to be there; "" after an error."""
        self._known[key] = None
        value = self.values.get(key)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, Unset):
            self.refuse(
                key, f"The environment variable {value.variable} is not set.", f"Set {value.variable}."
            )
        elif key not in self.values:
            self.refuse(key, f'"{key}" is missing.', f'Write "{key}": "{example}".')
        else:
            fix = f'Write "{key}": "{example}".'
            self.refuse(key, f'"{key}" has to be a non-empty string, not {_masked_kind(value)}.', fix)
        return ""

    def phrase(self, key: str, default: str) -> str:
        """A string, which may be empty."""
        if self.values.get(key) != "":
            return self.text(key, default)
        self._known[key] = None
        return ""

    def optional(self, key: str) -> str | None:
        """A non-empty string, None where it is left out."""
        return (self.text(key, "") or None) if self.given(key, None) else None

    def flag(self, key: str, default: bool) -> bool:
        """A boolean, or the text ``true`` or ``false``, since what ``$env`` gives is always text."""
        if not self.given(key, default):
            return default
        value = self.values[key]
        if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
            return value.strip().lower() == "true"
        if isinstance(value, bool):
            return value
        self.refuse(key, f'"{key}" has to be true or false, not {kind(value)}.')
        return default

    def texts(self, key: str, example: str) -> list[str]:
        """A list of non-empty strings that has to be there."""
        rows = self._rows(key, example)
        for index, value in enumerate(rows):
            if not (isinstance(value, str) and value.strip()):
                self.refuse(key, f"Item {index} has to be a non-empty string, not {kind(value)}.")
        return [value for value in rows if isinstance(value, str)]

    def rows(self, key: str, example: str) -> list[Options]:
        """A list of objects that has to be there. Read each, then `absorb` it."""
        path = child(self.path, key)
        return [Options(value, child(path, index)) for index, value in enumerate(self._rows(key, example))]

    def _rows(self, key: str, example: str) -> list[Any]:
        self._known[key] = None
        value = self.values.get(key)
        if isinstance(value, list) and value:
            return value
        is_what = "is missing" if key not in self.values else f"has to be a list, not {kind(value)}"
        self.refuse(
            key, f'"{key}" {"is an empty list" if value == [] else is_what}.', f'Write "{key}": {example}.'
        )
        return []

    def absorb(self, row: Options, what: str = "option") -> None:
        """Take over the findings of one of `rows`, after its last getter."""
        row.name_unknown(tuple(row._known), what)
        self.findings += row.findings

    def report(self, site: Site) -> bool:
        """Hand every finding to ``site``; True where there is no error among them."""
        self.name_unknown(tuple(self._known), "option")
        for finding in self.findings:
            site.report(finding)
        return all(finding.severity != "error" for finding in self.findings)


def _masked_kind(value: Any) -> str:
    """The kind without the value: what is required may be a secret."""
    return "an empty string" if isinstance(value, str) else kind(value)
