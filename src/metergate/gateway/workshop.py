"""The parts of a project while it is put together: what every policy and handler is built with, and the findings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from metergate.errors import Finding
from metergate.gateway.model import Site
from metergate.gateway.modules import ProjectModules
from metergate.gateway.origins import Origins

if TYPE_CHECKING:
    from metergate.engine import Backends
    from metergate.gateway.registry import HandlerFactory, PolicyFactory
    from metergate.gateway.upstream import Upstream

T = TypeVar("T")

_log = logging.getLogger("metergate.gateway")


@dataclass(slots=True)
class Workshop:
    """What all of a project is built with. ``findings`` collects everything that is said on the way."""

    directory: Path
    variables: Mapping[str, str]
    backends: Backends
    upstream: Upstream
    policies: Mapping[str, PolicyFactory]
    policy_types: Mapping[str, str]
    handlers: Mapping[str, HandlerFactory]
    modules: ProjectModules
    origins: Origins = field(default_factory=Origins)
    policy: Callable[[str], Any] = lambda name: None
    findings: list[Finding] = field(default_factory=list)

    def reporter(
        self, file: str, path: str, policy: str = "", *, written: Any = None, templates: Collection[str] = ()
    ) -> Callable[[Finding], None]:
        """Takes findings whose paths start at ``path`` of ``file``; one about another file stays as it is.

        ``written`` is what stands there, its ``$env`` as they are: a wrong value is the fault of the variable; for it
        and for ``templates`` see `Origins.blamed`.
        """

        def report(finding: Finding) -> None:
            finding = self.origins.blamed(finding, written, templates)
            if finding.file:
                self.findings.append(replace(finding, policy=finding.policy or policy))
            else:
                self.findings.append(finding.at(file=file, prefix=path, policy=policy))

        return report

    def site(self, name: str, report: Callable[[Finding], None]) -> Site:
        """What a factory is handed; ``report`` takes findings relative to its options."""

        def load(module: str, export: str) -> Any:
            return self.modules.load(module, export, lambda found: report(_at_options(found)))

        return Site(
            name, self.directory, self.variables, report, load, self.backends, self.upstream, self.policy
        )

    def build(
        self, factory: Callable[[Any, Site], T], options: Any, name: str, report: Callable[[Finding], None]
    ) -> T | None:
        """What the factory makes. One that raises is a finding: nothing in a configuration may end in a traceback."""
        try:
            return factory(options, self.site(name, report))
        except ImportError as missing:
            what = f"A package is missing: {missing}."
            report(Finding("error", "$", what, 'Install it with pip install "metergate[gateway]".'))
        except Exception as failure:  # noqa: BLE001  # see above; its text may hold a secret of the options
            _log.debug("building %s failed", name, exc_info=failure)
            report(
                Finding(
                    "error", "$", f"It could not be built: {type(failure).__name__}.", "Please report this."
                )
            )
        return None


def _at_options(finding: Finding) -> Finding:
    """A module that a policy's or handler's option names: the finding stands at the options."""
    return finding if finding.file else replace(finding, path="$")
