"""The project's own code: ``$import(./modules/x)`` is ``modules/x.py`` of its folder, loaded once.

Its modules are the package ``modules`` of this process, so they import each other as ``modules.x`` or ``.x``. A module
that cannot be loaded is a finding with its line, never a traceback.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from metergate.errors import Finding, error, nearest
from metergate.gateway.hooks import RuntimeHooks

PACKAGE = "modules"
BUILTIN_MODULE = "$import(@zuplo/runtime)"

_IMPORT = re.compile(r"\s*(?:\$import\(\s*)?\.?/?modules/([^()]*?)\s*\)?\s*").fullmatch
_FOREIGN = (".ts", ".js", ".tsx", ".mts", ".mjs")
_RUNTIME_FILES = ("zuplo.runtime.py", "runtime.py")

Report = Callable[[Finding], None]


def is_builtin(module: str) -> bool:
    """Whether a ``module`` of the JSON is the gateway's own runtime."""
    return module.replace(" ", "") == BUILTIN_MODULE


class ProjectModules:
    """Loads the modules of the project in ``directory``. A new one takes the package's name over from the one before."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / PACKAGE
        self._loaded: dict[str, ModuleType | None] = {}
        self._claim()

    def _claim(self) -> None:
        for name in [each for each in sys.modules if each == PACKAGE or each.startswith(PACKAGE + ".")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        package = ModuleType(PACKAGE)
        package.__path__ = [str(self._folder)]
        package.__file__ = str(self._folder / "__init__.py")
        sys.modules[PACKAGE] = package

    def load(self, module: str, export: str, report: Report) -> Any:
        """The attribute ``export`` of a module named as in the JSON; None after an error went to ``report``.

        The paths of findings are ``$.module`` and ``$.export``; one about a module itself names its file, and its
        line as path, and is said at the first use.
        """
        loaded = self._module(module, report)
        if loaded is None:
            return None
        found = getattr(loaded, export, None)
        if found is None:
            file = self._shown(loaded)
            public = [name for name in vars(loaded) if not name.startswith("_")]
            fix = nearest(export, public) or self._no_default(export, loaded)
            report(error("$.export", f'{file} has no "{export}".', fix))
        return found

    @staticmethod
    def _no_default(export: str, module: ModuleType) -> str:
        own = [
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__ and name[0] != "_"
        ]
        return f"It has {', '.join(own)}." if own else f"Define a function {export} there."

    def _module(self, module: str, report: Report) -> ModuleType | None:
        name = self._name(module, report)
        if name is None:
            return None
        if name not in self._loaded:
            self._loaded[name] = self._import(name, report)
        return self._loaded[name]

    def _name(self, module: str, report: Report) -> str | None:
        """``a.b`` for ``$import(./modules/a/b)`` where there is such a file."""
        found = _IMPORT(module)
        if found is None:
            message = f"{module} is not a module of the project."
            own = 'Write "$import(./modules/name)" for modules/name.py.'
            report(error("$.module", message, nearest(module, [BUILTIN_MODULE]) or own))
            return None
        path = found[1].removesuffix(".py")
        parts = path.split("/")
        if any(part in ("", ".", "..") or "\\" in part or "\0" in part or "." in part for part in parts):
            self._odd(path, report)
            return None
        if not self._folder.joinpath(*parts).with_suffix(".py").is_file():
            self._missing(path, report)
            return None
        return ".".join(parts)

    def _odd(self, path: str, report: Report) -> None:
        suffix = next((each for each in _FOREIGN if path.endswith(each)), "")
        stem = path.removesuffix(suffix) if suffix else ""
        if stem:
            message = f"modules/{path} is not Python."
            report(
                error("$.module", message, f'Write it as modules/{stem}.py and "$import(./modules/{stem})".')
            )
        else:
            message = f'"{path}" cannot be the name of a module.'
            report(error("$.module", message, 'Write "$import(./modules/name)" for modules/name.py.'))

    def _missing(self, path: str, report: Report) -> None:
        foreign = [each for each in _FOREIGN if (self._folder / f"{path}{each}").is_file()]
        if foreign:
            message = f"modules/{path}{foreign[0]} is not Python."
            fix = f"Modules are Python here: write modules/{path}.py."
        else:
            files = sorted(self._folder.rglob("*.py")) if self._folder.is_dir() else []
            known = [file.relative_to(self._folder).with_suffix("").as_posix() for file in files]
            message = f"There is no modules/{path}.py."
            fix = nearest(path, known) or (f"There are {', '.join(known)}." if known else "Write it.")
        report(error("$.module", message, fix))

    def _import(self, name: str, report: Report) -> ModuleType | None:
        try:
            return importlib.import_module(f"{PACKAGE}.{name}")
        except (Exception, SystemExit) as failure:  # noqa: BLE001  # a project's code may raise anything
            report(self._failed(failure, f"modules/{name.replace('.', '/')}.py"))
            return None

    def _failed(self, failure: BaseException, file: str) -> Finding:
        """The finding for what came out of a module's code: the innermost of its lines, as file and line."""
        if isinstance(failure, SyntaxError) and self._is_own(failure.filename):
            return _in_file(self._relative(failure.filename), f"{failure.msg}.", line=failure.lineno)
        frames = [
            frame for frame in traceback.extract_tb(failure.__traceback__) if self._is_own(frame.filename)
        ]
        what = f"{type(failure).__name__}: {failure}".rstrip(": ")
        if not frames:
            return _in_file(file, f"It cannot be loaded: {what}.")
        return _in_file(self._relative(frames[-1].filename), f"{what}.", line=frames[-1].lineno)

    def _is_own(self, file: str | None) -> bool:
        return file is not None and Path(file).is_relative_to(self._folder)

    def _relative(self, file: str | None) -> str:
        return Path(file or "").relative_to(self._folder.parent).as_posix()

    def _shown(self, module: ModuleType) -> str:
        return self._relative(module.__file__) if self._is_own(module.__file__) else module.__name__

    def runtime_hooks(self, report: Report) -> RuntimeHooks:
        """What the project's ``runtime_init(runtime)`` registers, in ``zuplo.runtime.py`` or ``runtime.py``."""
        hooks = RuntimeHooks()
        files = [name for name in _RUNTIME_FILES if (self._folder / name).is_file()]
        if not files:
            return hooks
        if len(files) > 1:
            message = f"modules/{files[1]} has no effect beside modules/{files[0]}."
            report(Finding("warning", "", message, "Keep one of them.", f"modules/{files[1]}"))
        module = self._runtime_module(files[0], report)
        if module is not None:
            self._initialize(module, f"modules/{files[0]}", hooks, report)
        return hooks

    def _runtime_module(self, file: str, report: Report) -> ModuleType | None:
        """By its path, since a dot in a file's name has no place in a module's."""
        name = f"{PACKAGE}.{file.removesuffix('.py').replace('.', '_')}"
        spec = importlib.util.spec_from_file_location(name, self._folder / file)
        if spec is None or spec.loader is None:
            report(_in_file(f"modules/{file}", "It cannot be loaded."))
            return None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as failure:  # noqa: BLE001  # as above
            report(self._failed(failure, f"modules/{file}"))
            return None
        return module

    def _initialize(self, module: ModuleType, file: str, hooks: RuntimeHooks, report: Report) -> None:
        function = getattr(module, "runtime_init", None) or getattr(module, "runtimeInit", None)
        if not callable(function):
            fix = nearest("runtime_init", vars(module)) or "Define runtime_init(runtime)."
            report(_in_file(file, "There is no function runtime_init.", fix))
            return
        try:
            result = function(hooks)
        except (Exception, SystemExit) as failure:  # noqa: BLE001  # as above
            report(self._failed(failure, file))
            return
        if hasattr(result, "close") and hasattr(result, "__await__"):
            result.close()
            report(_in_file(file, "runtime_init is async.", "Make it a plain function."))


def _in_file(file: str, message: str, fix: str = "", *, line: int | None = None) -> Finding:
    return Finding("error", "" if line is None else f"line {line}", message, fix, file)
