"""CORS policies: which web pages of other origins may read a route's responses.

`none` and `anything-goes` are built in, others stand in ``corsPolicies`` of ``config/policies.json``. A route's policy is
the only source of these headers: those of the upstream are removed. The headers are set on every response
of the route, problems too, so that a browser shows a 403 as a 403.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metergate.errors import Finding
from metergate.gateway.http import HeaderItems, Request, Response
from metergate.policy.fields import Fields, Unset, child, kind, number_in, shown

_SAFELISTED = frozenset(
    {
        "cache-control",
        "content-language",
        "content-length",
        "content-type",
        "expires",
        "last-modified",
        "pragma",
    }
)
"""Response headers that a page may always read."""

_OURS = frozenset(
    f"access-control-{name}"
    for name in (
        "allow-origin",
        "allow-methods",
        "allow-headers",
        "allow-credentials",
        "allow-private-network",
        "expose-headers",
        "max-age",
    )
)

_VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


@dataclass(frozen=True, slots=True)
class CorsPolicy:
    """Origins in lower case, ``*`` for any. ``wildcards`` match ``scheme://*.domain`` with one label for the star.

    No ``methods``: those of the path. ``headers`` and ``expose`` may be ``("*",)``. ``max_age`` in seconds.
    """

    name: str
    origins: frozenset[str] = frozenset()
    wildcards: tuple[re.Pattern[str], ...] = ()
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    max_age: int | None = None
    credentials: bool = False

    def allows(self, origin: str) -> bool:
        """Whether a page of that origin may read responses."""
        if "*" in self.origins:
            return True
        origin = origin.lower()
        return origin in self.origins or any(wildcard.fullmatch(origin) for wildcard in self.wildcards)

    def preflight(self, request: Request, methods: tuple[str, ...]) -> Response | None:
        """The answer to the browser's question, 200 without a body; None where the origin is not allowed.

        ``methods`` are those the path has routes for. A ``*`` for headers is answered with the headers asked for, since
        browsers take the star literally once credentials are in play, and never for ``authorization``.
        """
        origin = request.headers.get("origin")
        if origin is None or not self.allows(origin):
            return None
        headers: HeaderItems = [("access-control-allow-origin", origin), ("vary", _VARY)]
        headers.append(("access-control-allow-methods", ", ".join(self._methods(request, methods))))
        allowed = self._headers(request)
        if allowed:
            headers.append(("access-control-allow-headers", allowed))
        if self.max_age is not None:
            headers.append(("access-control-max-age", str(self.max_age)))
        if self.credentials:
            headers.append(("access-control-allow-credentials", "true"))
        return Response.trusted(200, headers, b"")

    def _methods(self, request: Request, methods: tuple[str, ...]) -> tuple[str, ...]:
        if self.methods and "*" not in self.methods:
            return self.methods
        asked = request.headers.get("access-control-request-method") or ""
        return methods if asked in methods or not asked else (*methods, asked)

    def _headers(self, request: Request) -> str:
        if "*" in self.headers:
            return request.headers.get("access-control-request-headers") or ""
        return ", ".join(self.headers)

    def decorate(self, request: Request, response: Response) -> None:
        """Set the CORS headers of a response to this request, in place of any that it has."""
        items = response.headers.items
        for name, _ in items:
            if name in _OURS:
                items = [item for item in items if item[0] not in _OURS]
                response.headers.items = items
                break
        if not self.origins and not self.wildcards:
            return
        _add_vary(items)
        origin = request.headers.get("origin")
        if origin is None or not self.allows(origin):
            return
        exposed = self._exposed(items)
        items.append(("access-control-allow-origin", origin))
        if exposed:
            items.append(("access-control-expose-headers", exposed))
        if self.credentials:
            items.append(("access-control-allow-credentials", "true"))

    def _exposed(self, items: HeaderItems) -> str:
        if "*" not in self.expose:
            return ", ".join(self.expose)
        names = (name for name, _ in items if name not in _SAFELISTED and name not in ("vary", "set-cookie"))
        return ", ".join(dict.fromkeys(names)) if self.credentials else "*"


def _add_vary(items: HeaderItems) -> None:
    """Caches must not hand one origin's response to another."""
    for index, (name, value) in enumerate(items):
        if name == "vary":
            tokens = value.lower().replace(" ", "").split(",")
            if "origin" not in tokens and "*" not in tokens:
                items[index] = (name, f"{value}, Origin")
            return
    items.append(("vary", "Origin"))


NONE = CorsPolicy("none")
"""No origin is allowed; what an upstream says of CORS is removed."""

ANYTHING_GOES = CorsPolicy(
    "anything-goes", frozenset({"*"}), headers=("*",), expose=("*",), max_age=600, credentials=True
)
BUILTIN: Mapping[str, CorsPolicy] = {policy.name: policy for policy in (NONE, ANYTHING_GOES)}

# --- reading --------------------------------------------------------------------------------------------------

_KEYS = (
    "name",
    "allowedOrigins",
    "allowedMethods",
    "allowedHeaders",
    "exposeHeaders",
    "maxAge",
    "allowCredentials",
)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.\-]*://(?:[^/\s:*?#]+|\[[0-9a-f:.]+\])(?::[0-9]+)?").fullmatch
_WILDCARD = re.compile(r"(?:([a-z][a-z0-9+.\-]*)://)?\*\.([^/\s:*?#]+)(:[0-9]+)?").fullmatch
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch


def read_cors_policies(value: Any) -> tuple[dict[str, CorsPolicy], list[Finding]]:
    """The policies of ``corsPolicies`` by name, the built-in ones among them, and all findings, paths from ``$``."""
    policies = dict(BUILTIN)
    all_findings: list[Finding] = []
    if value is None:
        return policies, []
    if not isinstance(value, list):
        return policies, [
            Finding("error", "$", f'"corsPolicies" has to be a list, not {kind(value)}.', "Write [].")
        ]
    for index, each in enumerate(value):
        policy, findings = read_cors_policy(each)
        if policy is not None and policy.name in policies:
            known = "is built in" if policy.name in BUILTIN else "is there already"
            findings.append(
                Finding("error", "$.name", f'A CORS policy "{policy.name}" {known}.', "Give it another name.")
            )
        elif policy is not None:
            policies[policy.name] = policy
        all_findings += (finding.at(prefix=child("$", index)) for finding in findings)
    return policies, all_findings


def read_cors_policy(value: Any) -> tuple[CorsPolicy | None, list[Finding]]:
    """One CORS policy, ``$env`` resolved already; None where it has no usable name, so nobody can mean it."""
    if not isinstance(value, Mapping):
        return None, [Finding("error", "$", f"A CORS policy has to be an object, not {kind(value)}.")]
    fields = Fields(value)
    name = value.get("name")
    if not isinstance(name, str) or not name.strip():
        fields.refuse(
            "name", "The CORS policy has no name, so no route can use it.", 'Write "name": "my-cors".'
        )
    origins = _list(fields, "allowedOrigins")
    exact, wildcards = _origins(fields, origins)
    if not origins and not any(each.path == "$.allowedOrigins" for each in fields.findings):
        fields.refuse(
            "allowedOrigins", "No origin is allowed.", 'Write "allowedOrigins": ["https://example.com"].'
        )
    credentials = _flag(fields, "allowCredentials")
    if credentials and "*" in exact:
        message = "Any web page may use your users' credentials."
        fields.doubt("allowedOrigins", message, "Name the origins, or leave allowCredentials out.")
    policy = CorsPolicy(
        name if isinstance(name, str) else "",
        frozenset(exact),
        tuple(wildcards),
        tuple(method.upper() for method in _tokens(fields, "allowedMethods")),
        tuple(_tokens(fields, "allowedHeaders")),
        tuple(_tokens(fields, "exposeHeaders")),
        _seconds(fields, "maxAge"),
        credentials,
    )
    fields.name_unknown(_KEYS, "key")
    return (policy if policy.name.strip() else None), fields.findings


def _list(fields: Fields, key: str) -> list[str]:
    """A list of strings, or one string with commas."""
    value = fields.values.get(key)
    if value is None:
        return []
    if isinstance(value, Unset):
        fields.refuse(key, f"The environment variable {value.variable} is not set.", f"Set {value.variable}.")
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return [part.strip() for each in value for part in each.split(",") if part.strip()]
    if isinstance(value, list):
        wrong = next(each for each in value if not isinstance(each, str))
        state = kind(wrong) if not isinstance(wrong, Unset) else f"the unset variable {wrong.variable}"
        fields.refuse(key, f"The list holds {state}.", "Write strings.")
    else:
        fields.refuse(key, f'"{key}" has to be a list of strings, not {kind(value)}.', 'Write ["…"].')
    return []


def _tokens(fields: Fields, key: str) -> list[str]:
    tokens = _list(fields, key)
    for token in tokens:
        if not _TOKEN(token):
            fields.refuse(key, f"{shown(token)} is not a name.", "Use letters, digits and -.")
    return [token for token in tokens if _TOKEN(token)]


def _origins(fields: Fields, origins: list[str]) -> tuple[set[str], list[re.Pattern[str]]]:
    exact: set[str] = set()
    wildcards: list[re.Pattern[str]] = []
    for written in origins:
        origin = written.lower()
        if origin in ("*", "null") or _ORIGIN(origin):
            exact.add(origin)
        elif wildcard := _WILDCARD(origin):
            wildcards.append(_wildcard(wildcard))
        elif _ORIGIN(origin.rstrip("/")):
            exact.add(origin.rstrip("/"))
            fix = f'Write "{written.rstrip("/")}".'
            fields.doubt("allowedOrigins", f"{shown(written)} ends in a slash, which no origin has.", fix)
        else:
            fix = 'Write "https://example.com", "https://*.example.com" or "*".'
            fields.refuse("allowedOrigins", f"{shown(written)} is not an origin.", fix)
    return exact, wildcards


def _wildcard(found: re.Match[str]) -> re.Pattern[str]:
    scheme = re.escape(found[1]) if found[1] else "https?"
    return re.compile(rf"{scheme}://[a-z0-9_\-]+\.{re.escape(found[2])}{re.escape(found[3] or '')}")


def _flag(fields: Fields, key: str) -> bool:
    value = fields.values.get(key)
    if value is None or isinstance(value, bool):
        return value is True
    text = value.strip().lower() if isinstance(value, str) else ""
    if text not in ("true", "false"):
        fields.refuse(key, f'"{key}" has to be true or false, not {kind(value)}.')
    return text == "true"


def _seconds(fields: Fields, key: str) -> int | None:
    value = fields.values.get(key)
    if value is None:
        return None
    number = number_in(value)
    if number is None or number < 0 or number > 2**31:
        fields.refuse(key, f'"{key}" has to be a number of seconds, not {kind(value)}.', "Write 600.")
        return None
    return int(number)
