"""What some routes need, or count, beside the rest of their application: behind each framework's own way to say so."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from metergate.engine import Engine
from metergate.middleware.host import Metergate, check_options


class Requirement:
    """A policy of its own for the routes that it is put on. Routes are declared before it is known which `Metergate` their
    application has: that makes its engine with their first request.
    """

    def __init__(self, features: Iterable[str] = (), options: dict[str, Any] | None = None) -> None:
        """``options`` as for `Metergate`, what differs from the application's; its ``meter`` is none unless there is one.

        Raises:
            ConfigurationError: options that cannot be right.
        """
        self._options = {"meter": [], "required_entitlements": [*features], **(options or {})}
        check_options("require", self._options)
        self._engines: WeakKeyDictionary[Metergate, Engine] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def engine(self, metergate: Metergate) -> Engine:
        """The policy at work in that application."""
        engine = self._engines.get(metergate)
        if engine is None:
            with self._lock:
                engine = self._engines.get(metergate)
                if engine is None:
                    engine = self._engines[metergate] = metergate.engine_for("require", **self._options)
        return engine
