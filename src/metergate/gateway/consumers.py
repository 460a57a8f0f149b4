"""The consumers of an API and their keys: `config/consumers.json`, which holds hashes only.

    {"consumers": [{"name": "acme", "metadata": {"plan": "gold"},
                    "keys": [{"id": "5f1d0c2e", "sha256": "…", "created": "2026-07-01T12:00:00Z", "expires": null}]}]}

A key is ``mg_`` and 43 random letters and digits, which is 256 bits: nobody can guess or enumerate it. So one round of
SHA-256 is the right hash. Slow hashes (bcrypt, Argon2) buy time where a secret comes from a human and a stolen hash can
be searched; here there is nothing to search, and the hash is made for every request. It also makes the look-up safe:
what is compared is a digest that the caller cannot choose, so the time of a comparison tells nothing.

`create_key` and `revoke_key` may run beside a gateway and beside each other: they hold a lock and replace the file in
one step. The gateway sees the change within a second.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import string
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from metergate.errors import ConfigurationError, Finding, UsageError, error
from metergate.gateway.jsonc import JsoncError, parse

KEY_PREFIX = "mg_"
KEY_CHARACTERS = 43
_EXPECTED = re.compile(r"Expected `(\w+)( \| null)?`, got `(\w+)`").fullmatch
_MISSING = re.compile(r"Object missing required field `(\w+)`").fullmatch
_WORDS = {
    "array": "a list",
    "bool": "a boolean",
    "datetime": "a time",
    "float": "a number",
    "int": "a number",
    "null": "null",
    "object": "an object",
    "str": "a string",
}
_ALPHABET = string.ascii_letters + string.digits


class KeyEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One key as the file holds it. Times are RFC 3339 in UTC; ``expires`` None is never; ``id`` names it to people."""

    sha256: str
    id: str = ""
    created: str | None = None
    expires: datetime | None = None


class Consumer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who calls: ``name`` becomes ``request.user.sub``, ``metadata`` its ``data``."""

    name: str
    metadata: dict[str, Any] = {}
    keys: list[KeyEntry] = []


class ConsumerDocument(msgspec.Struct, frozen=True):
    """The whole file."""

    consumers: list[Consumer] = []


def digest(key: str) -> bytes:
    """What a key is looked up by."""
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def read_document(text: str | bytes, file: str = "") -> ConsumerDocument:
    """The document; JSON with comments will do. Raises `ConfigurationError` with everything that is wrong."""
    try:
        document = _decode(text)
    except JsoncError as problem:
        raise ConfigurationError([Finding("error", problem.path, f"{problem}.", file=file)]) from None
    except (msgspec.ValidationError, UnicodeDecodeError) as problem:
        message, _, where = str(problem).partition(" - at ")
        raise ConfigurationError(
            [Finding("error", where.strip("`") or "$", _in_words(message), file=file)]
        ) from None
    findings = list(_wrong(document))
    if findings:
        raise ConfigurationError([finding.at(file=file) for finding in findings])
    return document


def _in_words(message: str) -> str:
    """What msgspec says, in the words of JSON."""
    if found := _EXPECTED(message):
        alternative = " or null" if found[2] else ""
        return f"It has to be {_WORDS[found[1]]}{alternative}, not {_WORDS[found[3]]}."
    if found := _MISSING(message):
        return f'"{found[1]}" is missing.'
    if "RFC3339" in message:
        return 'This is no time: write "2026-07-01T12:00:00Z".'
    return f"{message}."


def _decode(text: str | bytes) -> ConsumerDocument:
    try:
        return msgspec.json.decode(text, type=ConsumerDocument)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:  # perhaps it has comments
        plain = text.decode() if isinstance(text, bytes) else text
        return msgspec.convert(parse(plain), ConsumerDocument)


def _wrong(document: ConsumerDocument) -> Iterator[Finding]:
    names: dict[str, int] = {}
    for index, consumer in enumerate(document.consumers):
        path = f"$.consumers[{index}]"
        if not consumer.name.strip():
            yield error(
                f"{path}.name", "The name is empty.", "Name the consumer; it becomes request.user.sub."
            )
        if consumer.name in names:
            fix = f"Put its keys under $.consumers[{names[consumer.name]}]."
            yield error(f"{path}.name", f'"{consumer.name}" is there twice.', fix)
        names.setdefault(consumer.name, index)
        for position, key in enumerate(consumer.keys):
            here = f"{path}.keys[{position}]"
            if len(key.sha256) != 64 or not all(character in string.hexdigits for character in key.sha256):
                yield error(
                    f"{here}.sha256", "This is no SHA-256 in hexadecimal.", "Write 64 hexadecimal digits."
                )
            if key.expires is not None and key.expires.tzinfo is None:
                yield error(
                    f"{here}.expires", "The time has no zone.", 'Write it in UTC: "2026-07-01T12:00:00Z".'
                )


def create_key(
    file: Path,
    name: str,
    metadata: Mapping[str, Any] | None = None,
    *,
    expires: datetime | None = None,
    now: datetime | None = None,
) -> tuple[str, KeyEntry]:
    """Add a key to consumer ``name``, who is made where there is none; returns the key, which is kept nowhere, and its entry.

    ``metadata`` replaces what the consumer has, None keeps it. Raises `UsageError` for an empty name or an ``expires``
    that has no zone or is over, `ConfigurationError` where the file is broken (it is left as it is).
    """
    if not name.strip():
        raise UsageError("a consumer needs a name")
    now = now or datetime.now(UTC)
    if expires is not None:
        _refuse_expiry(expires, now)
    key = KEY_PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(KEY_CHARACTERS))
    sha256 = digest(key).hex()
    created = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    entry = KeyEntry(sha256, sha256[:8], created, expires.astimezone(UTC) if expires is not None else None)
    with _changing(file) as consumers:
        old = consumers.get(name, Consumer(name))
        kept = old.metadata if metadata is None else dict(metadata)
        consumers[name] = Consumer(name, kept, [*old.keys, entry])
    return key, entry


def _refuse_expiry(expires: datetime, now: datetime) -> None:
    if expires.tzinfo is None:
        zoned = expires.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")
        raise UsageError(f"expires {expires.isoformat()} has no time zone: write {zoned}")
    if expires <= now:
        fix = f"write a time to come, {now.year + 1}-01-01T00:00:00Z, or leave it out for a key that never expires"
        raise UsageError(f"expires {expires.isoformat()} is over, so the key would never be valid: {fix}")


def revoke_key(file: Path, key_id: str) -> bool:
    """Remove the key of that id; False where there is none. A consumer stays, also without keys."""
    found = False
    with _changing(file) as consumers:
        for name, consumer in consumers.items():
            kept = [key for key in consumer.keys if key_id not in (key.id, key.sha256)]
            found |= len(kept) < len(consumer.keys)
            consumers[name] = Consumer(name, consumer.metadata, kept)
    return found


@contextmanager
def _changing(file: Path) -> Iterator[dict[str, Consumer]]:
    """The consumers by name, to be changed; written back at the end, unless an exception came."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with (file.parent / f".{file.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = file.read_bytes() if file.exists() else b"{}"
        consumers = {consumer.name: consumer for consumer in read_document(text, str(file)).consumers}
        yield consumers
        document = ConsumerDocument(list(consumers.values()))
        _replace(file, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def _replace(file: Path, data: bytes) -> None:
    """Put ``data`` in the file's place in one step; a new file is for its owner only, an old one keeps its mode."""
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(mode)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
