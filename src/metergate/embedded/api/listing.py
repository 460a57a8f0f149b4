"""Lists as OpenMeter answers them: whole pages, bare arrays where no page is asked for, and in which order."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from metergate.embedded.api.requests import choice, integer, parameter_error
from metergate.embedded.domain.identifiers import PATTERN, is_id
from metergate.embedded.domain.meters import SLUG

T = TypeVar("T")
MAX_SIZE = 1000
DEFAULT_SIZE = 100
_MAX_NUMBER = 2**31 - 1
_KEY_OR_ID = re.compile(f"{SLUG.pattern}|{PATTERN.pattern}")


@dataclass(frozen=True, slots=True)
class Page:
    """The ``number``-th page (from 1) of ``size`` items."""

    number: int
    size: int

    def of(self, items: Sequence[Any], view: Callable[[Any], Any]) -> dict[str, Any]:
        """The page as OpenMeter writes it; only its own items are viewed."""
        start = (self.number - 1) * self.size
        shown = [view(item) for item in items[start : start + self.size]]
        return {"totalCount": len(items), "page": self.number, "pageSize": self.size, "items": shown}


def read_page(request: Request) -> Page:
    """``page`` and ``pageSize``; the first hundred where they are missing."""
    number = integer(request, "page", 1, least=1, most=_MAX_NUMBER)
    return Page(number, integer(request, "pageSize", DEFAULT_SIZE, least=1, most=MAX_SIZE))


def listing(request: Request, items: Sequence[T], view: Callable[[T], Any]) -> Any:
    """A page where one is asked for, else a bare list, cut by ``limit`` and ``offset``."""
    start, end = _bounds(request)
    if "page" in request.query_params or "pageSize" in request.query_params:
        return read_page(request).of(items, view)
    return [view(item) for item in items[start:end]]


def page_or_slice(request: Request, items: Sequence[T], view: Callable[[T], Any]) -> Any:
    """A page always; cut by ``limit`` and ``offset`` where they are given and no page is.

    The page of such an older request has the number and the size 0, as in OpenMeter.
    """
    start, end = _bounds(request)
    asked = request.query_params.keys()
    if asked & {"page", "pageSize"} or not asked & {"limit", "offset"}:
        return read_page(request).of(items, view)
    shown = [view(item) for item in items[start:end]]
    return {"totalCount": len(items), "page": 0, "pageSize": 0, "items": shown}


def _bounds(request: Request) -> tuple[int, int]:
    """What ``offset`` and ``limit`` cut out; they have to fit also where a page is asked for."""
    start = integer(request, "offset", 0, least=0, most=_MAX_NUMBER)
    return start, start + integer(request, "limit", DEFAULT_SIZE, least=1, most=MAX_SIZE)


def ordered(
    request: Request, items: Sequence[T], keys: Mapping[str, Callable[[T], Any]], default: str
) -> list[T]:
    """The items by ``orderBy`` (one of ``keys``) and ``order``; equal ones stay in the order they were made."""
    key = choice(request, "orderBy", list(keys)) or default
    descending = choice(request, "order", ("ASC", "DESC")) == "DESC"
    return sorted(items, key=keys[key], reverse=descending)


def present(**fields: Any) -> dict[str, Any]:
    """The fields that have a value: None, unset and empty objects are left out, as Go's omitempty does."""
    return {
        name: value
        for name, value in fields.items()
        if value is not None and value is not msgspec.UNSET and value != {}
    }


def segment(request: Request, name: str) -> str:
    """A part of the path, whatever characters its name has: ``app.py`` keeps an encoded slash apart as NUL."""
    value: str = request.path_params[name]
    return value.replace("\0", "/")


@dataclass(frozen=True, slots=True)
class Form:
    """What a name in a path or a query has to look like, and what is said of one that does not."""

    fits: Callable[[str], bool]
    otherwise: str


ID = Form(is_id, "string doesn't match the regular expression of a ULID")
KEY_OR_ID = Form(
    lambda value: len(value) <= 64 and _KEY_OR_ID.fullmatch(value) is not None,
    "string doesn't match the regular expression",
)
"""Of a meter, a feature, an entitlement."""
CUSTOMER = Form(lambda value: 1 <= len(value) <= 256, "a string of 1 to 256 characters is needed")
"""An id or a key of any form."""


def identifier(request: Request, name: str) -> str:
    """A part of the path that is an id. Raises 400 for what cannot be one, as OpenMeter's validator does."""
    return _checked(f"{name}Id", segment(request, name), ID, "path")


def key_or_id(request: Request, name: str, shown: str) -> str:
    """A part of the path that is a key or an id, called ``shown`` in the API's description. Raises 400 for what
    can be neither.
    """
    return _checked(shown, segment(request, name), KEY_OR_ID, "path")


def customer_key(request: Request) -> str:
    """The part of the path that names a customer. Raises 400 for one that is too long."""
    return _checked("customerIdOrKey", segment(request, "customer"), CUSTOMER, "path")


def names(request: Request, name: str, form: Form) -> list[str]:
    """All values of a parameter that may be repeated. Raises 400 for one that does not have the form."""
    return [_checked(name, value, form, "query") for value in request.query_params.getlist(name)]


def _checked(shown: str, value: str, form: Form, place: str) -> str:
    if not form.fits(value):
        raise parameter_error(shown, form.otherwise, place)
    return value
