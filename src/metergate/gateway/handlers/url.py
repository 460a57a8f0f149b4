"""``urlForwardHandler`` and ``urlRewriteHandler``: send the request on to an API behind the gateway.

Both only find the URL; `Upstream.forward` does the rest. A base URL without ``${`` costs one concatenation.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from metergate.gateway import problems
from metergate.gateway.http import Request, Response
from metergate.gateway.options import Options
from metergate.gateway.templates import Template, UnsafeValueError, parse
from metergate.policy.fields import shown
from metergate.policy.options import with_scheme

if TYPE_CHECKING:
    from metergate.gateway.context import Context
    from metergate.gateway.model import Handler, Site
    from metergate.gateway.upstream import Upstream

FindUrl = Callable[[Request], str]

_VARIABLE = re.compile(r"(?:\$|\$?\{+\s*(?:env\.)?)([A-Z][A-Z0-9_]*)\s*\}*").match
"""How other tools write what is ``${env.NAME}`` here."""


def build_forward(options: Any, site: Site) -> Handler | None:
    """Options: ``baseUrl``, to whose path the request's is appended; ``forwardSearch`` (true), ``followRedirects``
    (false)."""
    read = Options(options)
    template = _template(read, "baseUrl", site)
    search = read.flag("forwardSearch", True)
    follow = read.flag("followRedirects", read.flag("forwardRedirects", False))
    if template is not None and template.constant is not None:
        _check_base(read, template.constant)
    if not read.report(site) or template is None:
        return None
    find = _constant_base(template.constant) if template.constant is not None else _rendered_base(template)
    return _forwarding(find, search, site.upstream, follow)


def build_rewrite(options: Any, site: Site) -> Handler | None:
    """Options: ``rewritePattern``, the whole URL; ``forwardSearch`` (true): the request's query is appended to the
    pattern's; ``followRedirects`` (false)."""
    read = Options(options)
    template = _template(read, "rewritePattern", site)
    search = read.flag("forwardSearch", True) and not _has_search(template)
    follow = read.flag("followRedirects", False)
    if not read.report(site) or template is None:
        return None
    find: FindUrl = template.render
    return _forwarding(find, search, site.upstream, follow)


def _template(read: Options, key: str, site: Site) -> Template | None:
    text = read.required(key, "https://api.example.com")
    if not text:
        return None
    template, findings = parse(text, site.environment)
    read.include(findings, key)
    if template is not None and template.constant is not None:
        _check_url(read, key, template)
    return template


def _check_url(read: Options, key: str, template: Template) -> None:
    url = template.constant or ""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and parts.hostname:
        return
    written = url if "${" in template.source else template.source.strip()
    said = f'"{key}"' if "@" in url or "?" in url or not url else shown(written)  # either may hold a secret
    message = f"{said} is not the URL of an API." if url else f"{said} is empty."
    variable = _VARIABLE(written)
    meant = f"${{env.{variable[1]}}}{written[variable.end() :]}" if variable else with_scheme(url)
    read.refuse(key, message, f'Write "{meant or "https://api.example.com"}".')


def _check_base(read: Options, url: str) -> None:
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        fix = "Leave it out, or use urlRewriteHandler."
        read.refuse("baseUrl", "A base URL has no query and no fragment: the path is appended to it.", fix)


def _has_search(template: Template | None) -> bool:
    """Whether the pattern itself puts the request's query in; it must not come twice."""
    text = template.source.replace(" ", "") if template is not None else ""
    return "${search}" in text or "${url}" in text


def _constant_base(url: str) -> FindUrl:
    base = url.rstrip("/")
    return lambda request: base + request.raw_path


def _rendered_base(template: Template) -> FindUrl:
    return lambda request: template.render(request).rstrip("/") + request.raw_path


def _forwarding(find: FindUrl, search: bool, upstream: Upstream, follow: bool) -> Handler:
    forward = upstream.forward

    def handle(request: Request, context: Context) -> Response | Awaitable[Response]:
        try:
            url = find(request)
        except UnsafeValueError as problem:
            return problems.bad_request(request, context, {"detail": f"Refused: {problem}."})
        if search and request.query_string:
            url = f"{url}{'&' if '?' in url else '?'}{request.query_string}"
        return forward(request, context, url, follow_redirects=follow)

    return handle
