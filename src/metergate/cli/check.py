"""``metergate check``: everything that is wrong or doubtful in a project, without starting it."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from metergate.cli.options import AsJson, Project, Strict
from metergate.errors import Finding


def check(project: Project = Path(), strict: Strict = False, as_json: AsJson = False) -> None:
    """Say every error and warning of a project. Exit status 0, or 2 where it cannot be started."""
    from metergate.gateway.server import examine

    with redirect_stdout(sys.stderr):  # the project's modules are imported, and may print
        findings = examine(project, strict=strict)
    findings.sort(key=lambda finding: finding.severity)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        _show(findings, project)
    raise typer.Exit(2 if any(finding.severity == "error" for finding in findings) else 0)


def _show(findings: list[Finding], project: Path) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for finding in findings:
        style = "bold red" if finding.severity == "error" else "yellow"
        severity, _, rest = str(finding).partition(":")
        console.print(Text.assemble((severity, style), ":", rest))
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = len(findings) - errors
    verdict = f"{errors} error{_s(errors)}, {warnings} warning{_s(warnings)}; it cannot start"
    if not errors:
        verdict = f"ready to run, {warnings} warning{_s(warnings)}"
    console.print(Text(f"{project}: {verdict}"))


def _s(count: int) -> str:
    return "" if count == 1 else "s"
