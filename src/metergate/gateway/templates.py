"""URL templates: ``https://api.example.com/users/${params.id}``. A closed grammar, parsed once, never run as code.

    template    = { text | "${" expression "}" }
    expression  = function "(" expression ")" | value
    function    = "encodeURIComponent" | "e"
    value       = name { "." member | '["' member '"]' } | headers ".get(" '"' header '"' ")"
    name        = env, request, params, query, headers, url, origin, protocol, host, hostname, port, pathname,
                  search, method

``env`` is read when the template is parsed, since it never changes. What a client can choose cannot change which
part of the URL it stands in: see `places`. Where the original would write ``undefined``, nothing is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metergate.errors import Finding, error, nearest
from metergate.gateway.http import Request
from metergate.gateway.paths import DOT_SEGMENT
from metergate.gateway.places import (
    URL_KEPT,
    Expression,
    UnsafeValueError,
    Value,
    encode_uri_component,
    placed,
    quoted,
)

__all__ = ["Template", "TemplateError", "UnsafeValueError", "encode_uri_component", "parse"]


class TemplateError(ValueError):
    """What is wrong with a template: ``message`` and what to write instead, ``fix``."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template. ``source`` is its text, ``constant`` the result where no request can change it."""

    source: str
    parts: tuple[str | Value, ...]
    constant: str | None

    def render(self, request: Request) -> str:
        """The URL for this request: printable ASCII, without a path segment ``.`` or ``..`` that a client put in.

        Raises:
            UnsafeValueError: a value would change the host, or climb out of the path.
        """
        if self.constant is not None:
            return self.constant
        url = "".join([part if isinstance(part, str) else part(request) for part in self.parts])
        if ("/." in url or "%2" in url) and DOT_SEGMENT(url.partition("?")[0]):
            raise UnsafeValueError("the request would lead out of the path that the template names")
        return url


def parse(
    source: Any, variables: Mapping[str, str], path: str = "$"
) -> tuple[Template | None, list[Finding]]:
    """The template, or what is wrong with it, at ``path``: all of it at once."""
    if not isinstance(source, str) or not source.strip():
        return None, [
            error(path, "A template has to be a non-empty string.", 'Write "https://example.com/…".')
        ]
    findings: list[Finding] = []
    pieces: list[str | Expression] = []
    for text, expression in _split(source.strip()):
        try:
            pieces.append(_literal(text) if expression is None else _read(expression, variables))
        except TemplateError as wrong:
            findings.append(error(path, wrong.message, wrong.fix))
    if findings:
        return None, findings
    parts = placed(pieces)
    constant = "".join(parts) if all(isinstance(part, str) for part in parts) else None  # type: ignore[arg-type]
    return Template(source, parts, constant), []


# --- text -----------------------------------------------------------------------------------------------------

_EXPRESSION = re.compile(r"\$\{([^{}]*)(\}|$)")
_ENV = re.compile(r"\$env\(\s*([^()\s]*)\s*\)?", re.IGNORECASE)
_IMPORT = re.compile(r"\$import\(")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]").search


def _split(source: str) -> list[tuple[str, str | None]]:
    """Text and expressions in order, as (text, None) or (whole, expression)."""
    found: list[tuple[str, str | None]] = []
    end = 0
    for match in _EXPRESSION.finditer(source):
        found.append((source[end : match.start()], None))
        found.append((match[0], match[1] if match[2] else match[0]))
        end = match.end()
    found.append((source[end:], None))
    return [each for each in found if each[0]]


def _literal(text: str) -> str:
    _refuse_dollar_env(text)
    if _IMPORT.search(text):
        raise TemplateError("$import(…) cannot stand in a template.")
    if _UNPRINTABLE(text):
        raise TemplateError(
            "A template holds white space or a control character.", "Encode it: %20 is a space."
        )
    return quoted(text, safe=URL_KEPT)


def _refuse_dollar_env(text: str) -> None:
    if env := _ENV.search(text):
        raise TemplateError(
            f"{env[0]} has another form in a template.", f"Write ${{env.{env[1] or 'NAME'}}}."
        )


# --- expressions ----------------------------------------------------------------------------------------------

_CALL = re.compile(r"\s*([A-Za-z_$][\w$]*)\s*\((.*)\)\s*", re.DOTALL)
_NAME = re.compile(r"\s*([A-Za-z_$][\w$]*)")
_MEMBER = re.compile(r"""\s*(?:\??\.\s*([A-Za-z_$][\w$]*)|\[\s*(?:"([^"]*)"|'([^']*)')\s*\])""")
_GET = re.compile(
    r"""\s*(?:request\s*\.\s*)?headers\s*\.\s*get\s*\(\s*(?:"([^"]*)"|'([^']*)'|`([^`]*)`)\s*\)\s*"""
)
_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch

_FUNCTIONS = ("encodeURIComponent", "e")


def _read(expression: str, variables: Mapping[str, str]) -> str | Expression:
    """The text of ``env``, which is known already, or what only a request knows."""
    _refuse_dollar_env(expression)
    if expression.startswith("${"):
        raise TemplateError(f"{expression[:40]} is not closed.", "Write }.")
    if not (call := _CALL.fullmatch(expression)) or _GET.fullmatch(expression):
        return _value(expression, variables)
    if call[1] not in _FUNCTIONS:
        fix = nearest(call[1], _FUNCTIONS) or 'There are encodeURIComponent(…), e(…) and headers.get("…").'
        raise TemplateError(f"{call[1]} is not a function of a template.", fix)
    inner = _read(call[2], variables)
    if isinstance(inner, str):
        return encode_uri_component(inner)
    value = inner.value
    return Expression(lambda request: encode_uri_component(value(request)), inner.name, encoded=True)


def _value(expression: str, variables: Mapping[str, str]) -> str | Expression:
    if get := _GET.fullmatch(expression):
        return _header(get[1] or get[2] or get[3] or "")
    name, members = _names(expression)
    if name == "request" and members:
        name, members = members[0], members[1:]
        if name == "user":
            return _user(members)
        if name in ("env", "request"):
            raise _unknown(expression, f"request.{name}", members)
    if name == "env":
        return _variable(members, variables)
    if name in ("params", "query"):
        return _named(name, members)
    if name == "headers":
        header = members[0] if members else "x"
        raise TemplateError(
            f"{expression.strip()} is not how a header is read.", f'Write headers.get("{header}").'
        )
    if name in _PLAIN and not members:
        return Expression(_PLAIN[name], name)
    raise _unknown(expression, name, members)


def _names(expression: str) -> tuple[str, list[str]]:
    first = _NAME.match(expression)
    if first is None:
        raise TemplateError(f"${{{expression}}} is not an expression of a template.", _HELP)
    position = first.end()
    members: list[str] = []
    while found := _MEMBER.match(expression, position):
        members.append(found[1] or found[2] or found[3] or "")
        position = found.end()
    if expression[position:].strip():
        raise TemplateError(f"${{{expression}}} is not an expression of a template.", _HELP)
    return first[1], members


def _unknown(expression: str, name: str, members: list[str]) -> TemplateError:
    if name in _PLAIN:
        return TemplateError(f"{name} has no member {members[0]}.", f"Write ${{{name}}}.")
    fix = f"Write ${{env.{name}}}." if name.isupper() and not members else nearest(name, _NAMES) or _HELP
    return TemplateError(f"{expression.strip()} is not known in a template.", fix)


def _variable(members: list[str], variables: Mapping[str, str]) -> str:
    if len(members) != 1:
        raise TemplateError("env is read by one name.", "Write ${env.NAME}.")
    name = members[0]
    if name not in variables:
        fix = nearest(name, variables) or f"Set {name}, in the environment or in .env."
        raise TemplateError(f"The environment variable {name} is not set.", fix)
    value = variables[name].strip()
    if _UNPRINTABLE(value):
        raise TemplateError(f"The environment variable {name} holds white space or a control character.")
    return quoted(value, safe=URL_KEPT)


def _named(name: str, members: list[str]) -> Expression:
    if len(members) != 1:
        raise TemplateError(f"{name} is read by one name.", f"Write ${{{name}.name}}.")
    key = members[0]
    if name == "params":
        return Expression(lambda request: str(request.params.get(key, "")), name, key)
    return Expression(lambda request: request.query.get(key, ""), name, key)


def _header(name: str) -> Expression:
    if not _HEADER(name):
        raise TemplateError(f'"{name}" is not a header name.', 'Write headers.get("x-name").')
    key = name.lower()
    return Expression(lambda request: request.headers.get(key) or "", "headers", key)


def _user(members: list[str]) -> Expression:
    if members == ["sub"]:
        return Expression(lambda request: request.user.sub if request.user else "", "user")
    if not members or members[0] != "data" or len(members) < 2:
        raise TemplateError(
            "request.user has sub and data.", "Write ${request.user.sub} or ${request.user.data.name}."
        )
    keys = tuple(members[1:])

    def read(request: Request) -> str:
        value: Any = request.user.data if request.user else None
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value) if isinstance(value, str | int | float) else ""

    return Expression(read, "user")


def _search(request: Request) -> str:
    return f"?{request.query_string}" if request.query_string else ""


def _hostname(request: Request) -> str:
    host = request.host
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]


def _port(request: Request) -> str:
    port = request.host[len(_hostname(request)) :].removeprefix(":")
    return "" if port == {"http": "80", "https": "443"}.get(request.scheme) else port


_PLAIN: dict[str, Value] = {
    "url": lambda request: request.url,
    "origin": lambda request: f"{request.scheme}://{request.host}",
    "protocol": lambda request: f"{request.scheme}:",
    "host": lambda request: request.host,
    "hostname": _hostname,
    "port": _port,
    "pathname": lambda request: request.raw_path,
    "search": _search,
    "method": lambda request: request.method,
}
_NAMES = ("env", "request", "params", "query", "headers", *_PLAIN)
_HELP = f"Known are {', '.join(_NAMES)} and e(…)."
