"""Set and remove headers on the request that goes on, or on the response that comes back.

Set: options ``headers``: a list of ``{name, value, overwrite}``. With ``overwrite`` (the default) the value replaces
what is there, without it it is a default. Remove: options ``headers``: a list of names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from metergate.errors import UsageError
from metergate.gateway.http import HeaderItems, Headers, Request, Response
from metergate.gateway.model import NamedPolicy
from metergate.gateway.options import Options

if TYPE_CHECKING:
    from metergate.gateway.context import Context
    from metergate.gateway.model import Site

Edit = Callable[[Headers], None]

_SET_EXAMPLE = '[{"name": "x-api-version", "value": "1"}]'
_REMOVE_EXAMPLE = '["x-internal"]'

# How a message is cut is decided by the servers at both ends; a policy that says otherwise breaks the message.
_FRAMING = frozenset(
    {"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)


def build_set_inbound(options: Any, site: Site) -> NamedPolicy | None:
    """``SetHeadersInboundPolicy``."""
    return _inbound(_read_set(options, site), site.name)


def build_set_outbound(options: Any, site: Site) -> NamedPolicy | None:
    """``SetHeadersOutboundPolicy``."""
    return _outbound(_read_set(options, site), site.name)


def build_remove_inbound(options: Any, site: Site) -> NamedPolicy | None:
    """``RemoveHeadersInboundPolicy``."""
    return _inbound(_read_remove(options, site), site.name)


def build_remove_outbound(options: Any, site: Site) -> NamedPolicy | None:
    """``RemoveHeadersOutboundPolicy``."""
    return _outbound(_read_remove(options, site), site.name)


def _inbound(edit: Edit | None, name: str) -> NamedPolicy | None:
    if edit is None:
        return None

    def run(request: Request, context: Context) -> Request:
        edit(request.headers)
        return request

    return NamedPolicy(name, inbound=run)


def _outbound(edit: Edit | None, name: str) -> NamedPolicy | None:
    if edit is None:
        return None

    def run(response: Response, request: Request, context: Context) -> Response:
        edit(response.headers)
        return response

    return NamedPolicy(name, outbound=run)


def _read_set(options: Any, site: Site) -> Edit | None:
    read = Options(options)
    replaced: dict[str, str] = {}
    defaults: dict[str, str] = {}
    for row in read.rows("headers", _SET_EXAMPLE):
        name, value = row.required("name", "x-api-version"), row.required("value", "1")
        overwrite = row.flag("overwrite", True)
        if name and value and _may_stand(row, name, value):
            (replaced if overwrite else defaults)[name.lower()] = value
        read.absorb(row, "member")
    return setting(list(replaced.items()), list(defaults.items())) if read.report(site) else None


def _may_stand(row: Options, name: str, value: str) -> bool:
    if name.lower() in _FRAMING:
        row.refuse("name", f"{name} is written by the server itself.", "Leave it out.")
        return False
    try:
        Headers([(name, value)])
    except UsageError as problem:
        row.refuse("name" if "name" in str(problem).partition(":")[0] else "value", f"{problem}.")
        return False
    return True


def setting(replaced: HeaderItems, defaults: HeaderItems) -> Edit:
    """The edit that puts ``replaced`` in the place of what is there and adds those of ``defaults`` that are not."""
    names = frozenset(name for name, _ in replaced)

    def edit(headers: Headers) -> None:
        items = [item for item in headers.items if item[0] not in names]
        if defaults:
            present = {name for name, _ in items} | names
            items += [item for item in defaults if item[0] not in present]
        headers.items = items + replaced

    return edit


def _read_remove(options: Any, site: Site) -> Edit | None:
    read = Options(options)
    names = frozenset(name.lower() for name in read.texts("headers", _REMOVE_EXAMPLE))
    for name in sorted(names & _FRAMING):
        read.refuse("headers", f"{name} is written by the server itself.", "Leave it out.")
    if not read.report(site):
        return None

    def edit(headers: Headers) -> None:
        headers.items = [item for item in headers.items if item[0] not in names]

    return edit
