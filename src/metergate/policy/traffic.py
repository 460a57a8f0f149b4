"""Meters from the traffic: what a configured meter takes from a request and its response, and its events.

``from`` makes a meter of tokens: ``"tokens": "each"`` sends an event for each kind, whose ``tokens`` add up to all that
was used; ``"all"`` sends one event with every figure. Both have the ``model``, ``partial`` where the response broke off,
and ``estimated`` where the provider did not say. What stands in ``data`` is in each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec

from metergate.errors import error
from metergate.policy.expressions import Facts, Needs, read_data
from metergate.policy.fields import Fields, Unset, child, closest, is_text, kind, shown
from metergate.policy.model import FromTraffic, Meter, TokenMeter
from metergate.policy.secret import Secret

OPTIONS = ("from", "tokens", "estimate", "required")
PROVIDERS = ("openai", "openai-responses", "anthropic", "gemini")
"""Whose responses can be read: the names in `metergate.streams.PROVIDERS`."""

NO_USAGE = "no_usage"
MISSING_VALUE = "missing_value"

TokenSource = tuple[str, bool]
"""A provider, and whether its tokens are estimated where it does not say."""

CountsNowhere = Callable[[str, tuple[str, ...]], bool]
"""Whether an event of this type would count for no meter of OpenMeter, as these JSON paths are missing in its data."""

_EACH = ("model", "type", "tokens", "partial", "estimated")
_COUNTS = ("input", "output", "cached", "cache_write", "reasoning", "total")
_ALL = ("model", *(f"{name}_tokens" for name in _COUNTS), "partial", "estimated")


class UsageLike(Protocol):
    """The tokens of one response: `metergate.streams.Usage`, whose words these are."""

    @property
    def model(self) -> str | None: ...
    @property
    def input(self) -> int | None: ...
    @property
    def output(self) -> int | None: ...
    @property
    def cached(self) -> int | None: ...
    @property
    def cache_write(self) -> int | None: ...
    @property
    def reasoning(self) -> int | None: ...
    @property
    def total(self) -> int | None: ...
    @property
    def partial(self) -> bool: ...
    @property
    def estimated(self) -> bool: ...


class Seen(msgspec.Struct, frozen=True):
    """What was seen of one request and its response. A source whose response had no usage is None, or not there."""

    facts: Facts
    usages: Mapping[TokenSource, UsageLike | None] = {}


NOTHING_SEEN = Seen(Facts())


class Demand(msgspec.Struct, frozen=True):
    """What meters take from the traffic, for whoever collects it."""

    needs: Needs
    tokens: frozenset[TokenSource] = frozenset()

    @property
    def response_body(self) -> bool:
        """Whether the response's body has to be looked at."""
        return bool(self.tokens) or self.needs.response_body or self.needs.response_bytes

    def __or__(self, other: Demand) -> Demand:
        """What both take together."""
        return Demand(self.needs | other.needs, self.tokens | other.tokens)


class NotFilled(Exception):
    """There is no event of a meter for this request. ``reason`` is ``no_usage`` or ``missing_value``."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason = reason


def never(event_type: str, missing: tuple[str, ...]) -> bool:
    """Nothing is known of OpenMeter's meters: the event is sent."""
    return False


def demand_of(meters: Iterable[Meter]) -> Demand | None:
    """What these meters take from the traffic together; None where they take nothing."""
    demand: Demand | None = None
    for meter in meters:
        if (traffic := meter.traffic) is not None:
            tokens = frozenset(() if traffic.tokens is None else (_source(traffic.tokens),))
            own = Demand(traffic.template.needs, tokens)
            demand = own if demand is None else demand | own
    return demand


# --- read


def read_traffic(
    fields: Fields, data: dict[str, Any] | None, hash_key: Secret | None
) -> tuple[dict[str, Any] | None, FromTraffic | None]:
    """The constant data of a configured meter, and what it takes from the traffic, if anything; findings go to the fields."""
    tokens = _read_tokens(fields)
    template, findings = read_data(data or {}, hash_key)
    fields.include(findings, "data")
    own = () if tokens is None else _EACH if tokens.each else _ALL
    for key in own:
        if data is not None and key in data:
            message = f'"{key}" is what "from" puts in.'
            fields.refuse("data", message, f'Give it another name in "data" than {shown(key)}.')
    required = _read_required(fields, (*(data or {}), *own))
    if template is None:
        return data, None
    if not template.varies and tokens is None:
        if required:
            fix = 'Leave it out, or write an expression: "$response.bytes".'
            fields.doubt("required", '"required" has no effect: nothing in the data can be missing.', fix)
        return None if data is None else template.constant, None
    return template.constant, FromTraffic(template, tokens, required)


def _read_tokens(fields: Fields) -> TokenMeter | None:
    each = fields.choice("tokens", "each", ("each", "all")) == "each"
    estimate = _flag(fields, "estimate")
    if "from" not in fields.values:
        for key in ("tokens", "estimate"):
            if key in fields.values:
                fix = f'Write "from": "{PROVIDERS[0]}", or whose responses they are.'
                fields.doubt(key, f'"{key}" has no effect without "from".', fix)
        return None
    value = fields.values["from"]
    if value in PROVIDERS:
        return TokenMeter(value, each, estimate)
    known = ", ".join(shown(name) for name in PROVIDERS)
    fix = closest(value, PROVIDERS) if is_text(value) else f"Write {known}."
    fields.refuse("from", f'"from" has to be one of {known}, not {kind(value)}.', fix)
    return None


def _flag(fields: Fields, key: str) -> bool:
    if not fields.given(key, False):
        return False
    value = fields.values[key]
    spelt = {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else value
    if isinstance(spelt, bool):
        return spelt
    fields.refuse(key, f'"{key}" has to be true or false, not {kind(value)}.', "The default is false.")
    return False


def _read_required(fields: Fields, known: tuple[str, ...]) -> tuple[str, ...]:
    """Keys of the data, as JSON paths into it."""
    if "required" not in fields.values:
        return ()
    value = fields.values["required"]
    names = [value] if is_text(value) else value
    example = shown([known[0] if known else "tokens"])
    if not isinstance(names, list | tuple) or not names or isinstance(value, Unset):
        message = f'"required" has to be a list of keys of the data, not {kind(value)}.'
        fields.refuse("required", message, f'Write "required": {example}.')
        return ()
    for index, name in enumerate(names):
        if name not in known:
            message = f"{shown(name)} is no key of the data, so there would never be an event."
            fix = closest(name, known) if is_text(name) and known else f'Write "required": {example}.'
            path = child(child(fields.path, "required"), index)
            fields.findings.append(error(path, message, fix))
    return tuple(child("$", name) for name in names if name in known)


# --- fill


def filled(
    meter: Meter, traffic: FromTraffic, seen: Seen, counts_nowhere: CountsNowhere = never
) -> list[Meter]:
    """The events of a meter for this request, as meters whose data is there. Raises `NotFilled` where there is none."""
    made = traffic.template.fill(seen.facts)
    if traffic.tokens is None:
        datas, missing = [made.data], made.missing
    else:
        usage = seen.usages.get(_source(traffic.tokens))
        if usage is None:
            raise NotFilled(NO_USAGE, "the response told no usage")
        figures, lacking = _each(usage) if traffic.tokens.each else _all(usage)
        if not figures:
            raise NotFilled(NO_USAGE, "the response told a total only, and of no kind of token how many")
        datas = [{**made.data, **each} for each in figures]
        missing = (*made.missing, *lacking)
    if missing and (path := _lack(meter.type, traffic.required, missing, counts_nowhere)):
        raise NotFilled(MISSING_VALUE, f"{path} is missing in its data")
    return [Meter(meter.type, data, meter.subject, meter.source) for data in datas]


def _each(usage: UsageLike) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The data of an event for each kind of token. The kinds do not overlap: ``input`` is what neither came from a cache
    nor went into one. What a provider bills as output is output, with the reasoning. Of a cache 0 is not worth an event."""
    parts = {"cached": usage.cached or 0, "cache_write": usage.cache_write or 0}
    counts: dict[str, int] = {}
    if usage.input is not None:
        counts["input"] = max(usage.input - sum(parts.values()), 0)
    counts |= {name: count for name, count in parts.items() if count}
    if usage.output is not None:
        counts["output"] = usage.output
    model = {} if usage.model is None else {"model": usage.model}
    figures: list[dict[str, Any]] = []
    for name, count in counts.items():
        data: dict[str, Any] = {**model, "type": name, "tokens": count}
        figures.append(_marked(data, partial=usage.partial, estimated=usage.estimated and name == "output"))
    return figures, () if model else ("$.model",)


def _all(usage: UsageLike) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The data of one event with every figure that is known."""
    figures = {"model": usage.model} | {f"{name}_tokens": getattr(usage, name) for name in _COUNTS}
    data = {name: value for name, value in figures.items() if value is not None}
    missing = tuple(f"$.{name}" for name in figures if name not in data)
    return [_marked(data, partial=usage.partial, estimated=usage.estimated)], missing


def _marked(data: dict[str, Any], *, partial: bool, estimated: bool) -> dict[str, Any]:
    if partial:
        data["partial"] = True
    if estimated:
        data["estimated"] = True
    return data


def _lack(
    event_type: str, required: tuple[str, ...], missing: tuple[str, ...], counts_nowhere: CountsNowhere
) -> str:
    """The path for whose sake there is no event; empty where there is one."""
    for path in missing:
        if any(path == name or path.startswith((f"{name}.", f"{name}[")) for name in required):
            return path
    return ", ".join(missing) if counts_nowhere(event_type, missing) else ""


def _source(tokens: TokenMeter) -> TokenSource:
    return tokens.provider, tokens.estimate
