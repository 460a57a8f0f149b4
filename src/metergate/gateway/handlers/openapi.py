"""``openApiSpecHandler``: serves one of the project's OpenAPI documents, without what only the gateway needs of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from metergate.gateway.http import Request, Response
from metergate.gateway.jsonc import parse
from metergate.gateway.options import Options

if TYPE_CHECKING:
    from pathlib import Path

    from metergate.gateway.context import Context
    from metergate.gateway.model import Handler, Site

PRIVATE_PREFIX = "x-zuplo-"
_EXAMPLE = "./config/routes.oas.json"


def build(options: Any, site: Site) -> Handler | None:
    """Options: ``openApiFilePath``, inside the project's folder. The document is read once, at the start."""
    read = Options(options)
    name = read.required("openApiFilePath", _EXAMPLE)
    body = _read_document(name, site.directory, read) if name else b""
    if not read.report(site):
        return None

    def answer(request: Request, context: Context) -> Response:
        return Response.trusted(200, [("content-type", "application/json")], body)

    return answer


def _read_document(name: str, directory: Path, read: Options) -> bytes:
    file = (directory / name).resolve()
    if not file.is_relative_to(directory.resolve()):
        read.refuse("openApiFilePath", f"{name} is outside the project.", f'Write "{_EXAMPLE}".')
        return b""
    try:
        return msgspec.json.format(msgspec.json.encode(without_private(parse(file.read_text()))), indent=2)
    except OSError as problem:
        read.refuse("openApiFilePath", f"{name} cannot be read: {problem.strerror}.", f'Write "{_EXAMPLE}".')
    except ValueError as problem:
        read.refuse("openApiFilePath", f"{name} is not JSON: {problem}.", "Correct the file.")
    return b""


def without_private(value: Any) -> Any:
    """The same document without any ``x-zuplo-*`` member, at any depth."""
    if isinstance(value, dict):
        return {k: without_private(v) for k, v in value.items() if not k.startswith(PRIVATE_PREFIX)}
    return [without_private(item) for item in value] if isinstance(value, list) else value
