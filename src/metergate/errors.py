"""Every exception and finding of Metergate. The one module that any room may import; it imports none.

A *finding* is something wrong or doubtful in a configuration: it says what, where and what to write instead. Findings
are collected, never raised one by one, so that an operator sees all of them at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong (``error``) or doubtful (``warning``) in a configuration.

    ``path`` is the JSON path inside ``file`` (``$.policies[0].handler.options.meter``), ``fix`` what to write instead.
    """

    severity: Severity
    path: str
    message: str
    fix: str = ""
    file: str = ""
    policy: str = ""

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.file, self.path) if part)
        policy = f" (policy {self.policy})" if self.policy else ""
        place = f"{where}{policy}: " if where or policy else ""
        fix = f" {self.fix}" if self.fix else ""
        return f"{self.severity}: {place}{self.message}{fix}"

    def at(self, *, file: str = "", prefix: str = "$", policy: str = "") -> Finding:
        """The same finding seen from outside: its path ``$.x`` becomes ``prefix.x``; file and policy where not yet set."""
        return replace(
            self, path=prefix + self.path[1:], file=self.file or file, policy=self.policy or policy
        )


def error(path: str, message: str, fix: str = "") -> Finding:
    """A finding that stops the start."""
    return Finding("error", path, message, fix)


def warning(path: str, message: str, fix: str = "") -> Finding:
    """A finding that is said and started with (an error under ``--strict``)."""
    return Finding("warning", path, message, fix)


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean "x"?`` for the known name closest to ``name``; empty when none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f'Did you mean "{matches[0]}"?' if matches else ""


class MetergateError(Exception):
    """The root of all exceptions that Metergate raises on purpose."""


class ConfigurationError(MetergateError):
    """A configuration that cannot be run. ``findings`` holds all that is wrong with it, the errors first."""

    def __init__(self, findings: Sequence[Finding] | str) -> None:
        if isinstance(findings, str):
            findings = [Finding("error", "", findings)]
        self.findings = tuple(sorted(findings, key=lambda finding: finding.severity))
        super().__init__("\n".join(str(finding) for finding in self.findings))


class UsageError(MetergateError, ValueError):
    """A function of ours was called with an argument that cannot be right; raised where it is called."""


class RuntimeProblem(MetergateError):  # its public name
    """What a project's code raises where it cannot go on: a 500 problem, and ``message`` in the log.

    ``extension_members`` are for whoever catches it, to say more in a problem of their own.
    """

    def __init__(self, message: str, extension_members: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.extension_members = dict(extension_members or {})


class OpenMeterError(MetergateError):
    """OpenMeter gave no usable answer."""


class OpenMeterOutage(OpenMeterError):
    """No answer, a 5xx, or one that is not OpenMeter's: try again later."""


class OpenMeterMisdirected(OpenMeterOutage):
    """What answers is not OpenMeter: ``apiUrl`` leads elsewhere, or something on the way answers in its place."""


class OpenMeterBlocked(OpenMeterOutage):
    """Somebody before OpenMeter, a firewall say, refused this request (403). Others may pass."""


class OpenMeterUnauthorized(OpenMeterError):
    """OpenMeter refused our API key (401, 403): an operator has to act."""


class OpenMeterThrottled(OpenMeterError):
    """429: ``retry_after`` seconds have to pass first; None where OpenMeter did not say."""

    def __init__(self, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
