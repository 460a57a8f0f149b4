"""The figures of all workers of one gateway, in files of one folder.

Each worker has a file with its latest figures, one with its `Ledger`, whose numbers go before, and holds a lock as long as
it lives. What a dead worker counted is added to ``retired.json``, so that the sum never goes back. A crash between writing
that file and removing the dead worker's is harmless: the file says whose figures it contains.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from metergate.gateway.metrics.ledger import Ledger, read_ledger
from metergate.gateway.metrics.samples import Histogram, Sample, add_up, add_up_histograms

_RETIRED = "retired.json"
_FOLDER_LOCK = "folder.lock"

_log = logging.getLogger("metergate.gateway")


class Figures(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything one worker counts; in ``retired.json`` of all the dead, and who they were, while their files remain."""

    samples: list[Sample] = []
    histograms: list[Histogram] = []
    contains: list[str] = []


def total(parts: list[Figures]) -> Figures:
    """The sum of several workers' figures."""
    return Figures(
        add_up(sample for part in parts for sample in part.samples),
        add_up_histograms(one for part in parts for one in part.histograms),
    )


def with_ledger(figures: Figures, samples: list[Sample], histograms: list[Histogram]) -> Figures:
    """Figures with what a ledger has of them newer, and what it has beside them."""
    newer = {(one.name, one.labels) for one in samples}
    older = [one for one in figures.samples if (one.name, one.labels) not in newer]
    return Figures(older + samples, figures.histograms + histograms)


class FiguresFolder:
    """One worker's place in the folder, from `join` to `leave`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._name = ""
        self._lock: IO[bytes] | None = None

    def join(self, ledger: Ledger | None = None) -> None:
        """Take a place, in which ``ledger`` is kept from now on. In the process that will write, so after any fork.

        Raises OSError.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._alone():
            self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
            self._lock = self._file(self._name, "lock").open("ab")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if ledger is not None:
                ledger.open(self._file(self._name, "numbers"), self._file(self._name, "places"))

    def leave(self) -> None:
        """Give the place up; what was published last is kept."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def publish(self, figures: Figures) -> None:
        """Write this worker's figures, in one step. Raises OSError."""
        _write(self._file(self._name, "json"), figures)

    def collect(self) -> Figures:
        """The figures of all, this worker's as it published them last; those of the dead are put together for good."""
        with self._alone():
            retired = _read(self._directory / _RETIRED) or Figures()
            living: list[Figures] = []
            dead: dict[str, Figures] = {}
            for file in sorted(self._directory.glob("*.lock")):
                if file.name == _FOLDER_LOCK:
                    continue
                figures = self._figures(file.stem)
                if file.stem == self._name or _is_held(file):
                    living.append(figures)
                elif file.stem in retired.contains:
                    dead[file.stem] = Figures()
                else:
                    dead[file.stem] = figures
            if dead:
                retired = self._retire(retired, dead)
        return total([retired, *living])

    def _retire(self, retired: Figures, dead: dict[str, Figures]) -> Figures:
        together = total([retired, *(_kept(figures) for figures in dead.values())])
        contains = sorted({*retired.contains, *dead})
        _write(self._directory / _RETIRED, msgspec.structs.replace(together, contains=contains))
        for name in dead:
            for suffix in ("json", "numbers", "places", "lock"):  # the lock last: it is what is looked for
                self._file(name, suffix).unlink(missing_ok=True)
        _write(self._directory / _RETIRED, together)
        return together

    def _figures(self, name: str) -> Figures:
        """The figures of one worker as of now, or as of its end."""
        published = _read(self._file(name, "json")) or Figures()
        try:
            return with_ledger(
                published, *read_ledger(self._file(name, "numbers"), self._file(name, "places"))
            )
        except FileNotFoundError:
            return published
        except (OSError, ValueError) as problem:
            _log.error("the counters of a worker cannot be read: %s", problem, extra={"worker": name})
            return published

    def _file(self, name: str, suffix: str) -> Path:
        return self._directory / f"{name}.{suffix}"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else joins or collects meanwhile."""
        with (self._directory / _FOLDER_LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _kept(figures: Figures) -> Figures:
    """What stays true when a worker is gone."""
    return Figures([sample for sample in figures.samples if sample.kind == "counter"], figures.histograms)


def _is_held(file: Path) -> bool:
    try:
        with file.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _read(file: Path) -> Figures | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Figures)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as problem:
        _log.error("the figures of a worker cannot be read: %s", problem, extra={"file": str(file)})
        return None


def _write(file: Path, figures: Figures) -> None:
    temporary = file.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(figures))
    temporary.replace(file)
