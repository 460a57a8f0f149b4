"""Destinations: an OpenMeter and an API key, each with a folder of its own below the project's spool.

The key decides on OpenMeter's side whose events they are, so events recorded under one key must never be sent with another
unless that other is its successor. A *line of succession* is all that this can be told from:

* the URL is the same;
* the successor's folder is younger;
* nobody who uses the older key is alive;
* of all folders of that URL no two were ever seen alive at the same time. Whoever uses two keys of one OpenMeter at once
  has two organisations there, and then nothing is guessed. What was seen is written down for good (``beside-…``), since
  tomorrow's configuration may have only one of them.

Where events are left under a key without an heir, that is said as an error and counted, and nothing is sent, until an
operator names the heir (``name_heir``). A rolling restart that changes the key shows both keys at once, so it counts as two.
The key itself is in no file: a fingerprint stands for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from metergate.delivery.files import Files, write_whole_file
from metergate.delivery.segment import SEGMENT_SUFFIX, try_lock
from metergate.errors import UsageError

DESTINATION_FILE = "destination.json"
_ALIVE_FILE = "alive.lock"
_BESIDE_PREFIX = "beside-"
_HEIR_FILE = "heir"


_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


class Destination(msgspec.Struct, frozen=True, omit_defaults=True):
    """What ``destination.json`` says. ``created`` is seconds since 1970."""

    url: str
    key_fingerprint: str
    created: float = 0.0
    version: int = 1

    @property
    def folder_name(self) -> str:
        """Host for people, hash for machines."""
        host = re.sub(r"[^a-z0-9.-]+", "_", urlsplit(self.url).netloc.lower()).strip(".") or "openmeter"
        digest = hashlib.sha256(f"{self.url}\n{self.key_fingerprint}".encode()).hexdigest()
        return f"{host[:80]}-{digest[:12]}"


@dataclass(frozen=True, slots=True)
class Folder:
    """Where the files of one destination are."""

    path: Path
    destination: Destination

    @property
    def segments(self) -> Path:
        """Segments, their cursors and locks."""
        return self.path / "segments"

    @property
    def dead(self) -> Path:
        """Dead letters."""
        return self.path / "dead"

    @property
    def sent(self) -> Path:
        """What was sent, compressed, for a while."""
        return self.path / "sent"


@dataclass(frozen=True, slots=True)
class Sighting:
    """How a folder was found: its age, whether anybody uses its key now, whom it was seen beside, the heir named for it."""

    name: str
    created: float
    alive: bool
    beside: frozenset[str]
    has_events: bool
    heir: str = ""


def describe(url: str, api_key: str) -> Destination:
    """The destination of a URL and a key. The URL in one spelling: no trailing slash, lower-case host, no credentials.

    Raises:
        UsageError: not a URL with http or https and a host.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError('The URL of OpenMeter must look like "https://openmeter.cloud".')
    host = parts.netloc.rpartition("@")[2].lower()
    return Destination(f"{parts.scheme}://{host}{parts.path.rstrip('/')}", fingerprint(api_key))


def fingerprint(api_key: str) -> str:
    """Stands for a key where the key must not: the same for the same key, of no use for calling OpenMeter."""
    return "v1:" + hashlib.sha256(f"metergate destination v1\n{api_key}".encode()).hexdigest()[:32]


def make_folder(root: Path, destination: Destination, files: Files, wall_time: float) -> Folder:
    """The destination's folder below ``root``, made where there is none.

    Raises:
        OSError: it cannot be made.
    """
    path = root / destination.folder_name
    for name in ("segments", "dead", "sent"):
        files.make_folder(path / name)
    known = read_destination(path)
    if known is None:
        known = msgspec.structs.replace(destination, created=wall_time)
        write_whole_file(files, path / DESTINATION_FILE, msgspec.json.encode(known) + b"\n")
    return Folder(path, known)


def read_destination(path: Path) -> Destination | None:
    """What a folder says it is; None for a folder that is none of ours."""
    try:
        return msgspec.json.decode((path / DESTINATION_FILE).read_bytes(), type=Destination)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def folders(root: Path) -> list[Folder]:
    """All destinations below ``root``, by name. Cheap: one small file is read for each.

    A folder that cannot be read is none of ours: a spool on a volume of its own has ``lost+found`` beside it.
    """
    if not root.is_dir():
        return []
    found: list[Folder] = []
    for path in sorted(root.iterdir()):
        with contextlib.suppress(OSError):
            if (destination := read_destination(path)) is not None:
                found.append(Folder(path, destination))
    return found


def one_spelling(url: str) -> str:
    """The URL of an OpenMeter, the same for all names of this machine and with or without the usual port.

    Raises:
        UsageError: as `describe`.
    """
    parts = urlsplit(describe(url, "").url)
    host = "localhost" if parts.hostname in _THIS_MACHINE else parts.hostname
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{host}:{port}{parts.path}"


def folders_of(root: Path, url: str) -> list[Folder]:
    """The destinations below ``root`` of one OpenMeter: one for each key that was ever used."""
    wanted = one_spelling(url)
    return [folder for folder in folders(root) if one_spelling(folder.destination.url) == wanted]


def left_behind(root: Path, urls: Iterable[str]) -> list[Folder]:
    """Destinations below ``root`` that hold events, are of none of these URLs, and whose key nobody alive uses."""
    known = {describe(url, "").url for url in urls}
    found = []
    with contextlib.suppress(OSError):  # the spool cannot be read: whoever sends from it says so
        for folder in folders(root):
            sighting = look_at(folder)
            if sighting.has_events and not sighting.alive and folder.destination.url not in known:
                found.append(folder)
    return found


def show_alive(folder: Folder) -> int:
    """A descriptor that tells others, as long as it is open, that somebody uses this destination's key.

    Raises:
        OSError: the file cannot be opened.
    """
    fd = os.open(folder.path / _ALIVE_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_SH)  # waits at most for the glance of is_alive
    return fd


def is_alive(folder: Folder) -> bool:
    """Whether any process uses this destination's key now."""
    try:
        fd = os.open(folder.path / _ALIVE_FILE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


def look_at(folder: Folder) -> Sighting:
    """How the folder is just now."""
    names = [path.name for path in folder.path.iterdir()]
    beside = frozenset(name.removeprefix(_BESIDE_PREFIX) for name in names if name.startswith(_BESIDE_PREFIX))
    has_events = any(folder.segments.glob("*" + SEGMENT_SUFFIX))
    heir = (folder.path / _HEIR_FILE).read_text() if _HEIR_FILE in names else ""
    created = folder.destination.created
    return Sighting(folder.path.name, created, is_alive(folder), beside, has_events, heir.strip())


def remember_beside(one: Folder, other: Folder) -> None:
    """Writes down in both folders, for good, that both keys were in use at the same time."""
    for folder, name in ((one, other.path.name), (other, one.path.name)):
        (folder.path / f"{_BESIDE_PREFIX}{name}").touch(mode=0o600)


def name_heir(root: Path, source: str, heir: str, files: Files | None = None) -> None:
    """Lets the destination in folder ``heir`` send what is left in folder ``source``: an operator's decision.

    Raises:
        UsageError: one of the two is no destination of this spool, or they are of different URLs.
    """
    by_name = {folder.path.name: folder for folder in folders(root)}
    for name in (source, heir):
        if name not in by_name:
            raise UsageError(
                f"{name} is not a destination in {root}. There are: {', '.join(by_name) or 'none'}."
            )
    if by_name[source].destination.url != by_name[heir].destination.url:
        raise UsageError(f"{source} and {heir} are of different URLs; events never change OpenMeter.")
    write_whole_file(files or Files(), by_name[source].path / _HEIR_FILE, f"{heir}\n".encode())


def inheritance(own: Sighting, others: Iterable[Sighting]) -> tuple[frozenset[str], frozenset[str]]:
    """Of the folders of the same URL that hold events of nobody alive: those that ``own`` inherits, and those stranded.

    Pure; the rule is at the top of this module.
    """
    others = tuple(others)
    left = frozenset(other.name for other in others if other.has_events and not other.alive)
    named = left & {other.name for other in others if other.heir == own.name}
    of_this_url = {own.name, *(other.name for other in others)}
    were_beside = any(sighting.beside & of_this_url for sighting in (own, *others))
    if were_beside or any(other.alive for other in others):
        return named, left - named
    older = frozenset(other.name for other in others if other.created < own.created and not other.heir)
    inherited = named | (left & older)
    return inherited, left - inherited
