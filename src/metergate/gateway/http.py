"""The messages that pass through the gateway: headers, a request, a response. No framework and no I/O of their own.

The servers' adapters (`rsgi`, `asgi`) make a `Request`; handlers and policies make a `Response`; an adapter sends it.
Header names are lower case inside the gateway, whatever the wire said.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote, unquote

import msgspec

from metergate.errors import UsageError

HeaderItems = list[tuple[str, str]]
Chunks = AsyncIterator[bytes]

_encode_json = msgspec.json.Encoder(decimal_format="number").encode
_decode_json = msgspec.json.Decoder().decode

NO_BODY_STATUSES = frozenset({204, 205, 304})
_FINAL_STATUSES = range(200, 600)


class Headers:
    """HTTP header fields in wire order; a name may occur more than once. Names are compared without case.

    ``headers["x"]`` and ``get`` give the first value, ``get_all`` each; assigning replaces all of a name.
    """

    __slots__ = ("items",)

    def __init__(self, items: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        pairs = items.items() if isinstance(items, (dict, Mapping)) else items  # a dict is known at once
        self.items: HeaderItems = [(name.lower(), _checked(name, value)) for name, value in pairs]

    @classmethod
    def trusted(cls, items: HeaderItems) -> Headers:
        """Headers over a list whose names are lower case already and whose values are valid. Not copied."""
        headers = cls.__new__(cls)
        headers.items = items
        return headers

    def get(self, name: str, default: str | None = None) -> str | None:
        name = name.lower()
        for key, value in self.items:
            if key == name:
                return value
        return default

    def get_all(self, name: str) -> list[str]:
        name = name.lower()
        return [value for key, value in self.items if key == name]

    def set(self, name: str, value: str) -> None:
        """Replace every field of that name by one."""
        self.delete(name)
        self.append(name, value)

    def append(self, name: str, value: str) -> None:
        self.items.append((name.lower(), _checked(name, value)))

    def delete(self, name: str) -> None:
        """Remove every field of that name; none is no error."""
        name = name.lower()
        self.items = [item for item in self.items if item[0] != name]

    def copy(self) -> Headers:
        return Headers.trusted(self.items.copy())

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        self.set(name, value)

    def __delitem__(self, name: str) -> None:
        self.delete(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.items))

    def __len__(self) -> int:
        return len(self.items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and other.items == self.items

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        shown = [(name, "***" if name in SECRET_HEADERS else value) for name, value in self.items]
        return f"Headers({shown})"


SECRET_HEADERS = frozenset({"authorization", "cookie", "set-cookie", "proxy-authorization", "x-api-key"})

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search


def _checked(name: str, value: str) -> str:
    """The value, if name and value can go out as a header; a newline in either would let a caller forge another."""
    if not _NAME(name):
        raise UsageError(f"{name!r} is not a header name: use letters, digits and -")
    if not isinstance(value, str):
        raise UsageError(f"the value of header {name} is a {type(value).__name__}: give a string")
    if _BAD_VALUE(value):
        raise UsageError(f"the value of header {name} holds a control character: remove it")
    return value


class User(msgspec.Struct, frozen=True):
    """Who is calling, as an authentication policy found: ``sub`` names them, ``data`` is what else is known."""

    sub: str
    data: Mapping[str, Any] = msgspec.field(default_factory=dict)


class RequestBody(Protocol):
    """The body of a request as a server gives it: whole, or chunk by chunk. Raises `BodyTooLarge` past the bound."""

    async def read(self) -> bytes: ...

    def stream(self) -> Chunks: ...


class BodyTooLarge(Exception):  # a condition of the request that becomes a 413, not an error of ours
    """The client sent more than ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request body is larger than {limit} bytes")
        self.limit = limit


class BodyConsumed(RuntimeError):
    """The body was streamed on already and cannot be read any more."""


class EmptyBody:
    """The body of a request that has none."""

    __slots__ = ()

    async def read(self) -> bytes:
        return b""

    async def stream(self) -> Chunks:
        nothing: tuple[bytes, ...] = ()
        for chunk in nothing:
            yield chunk


class BytesBody:
    """A body that is all there."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self) -> bytes:
        return self.data

    async def stream(self) -> AsyncIterator[bytes]:
        yield self.data


EMPTY_BODY = EmptyBody()

# What may stand in a path as it is (RFC 3986 pchar and "/"); everything else is percent-encoded again.
_PATH_SAFE = "/:@!$&'()*+,;=-._~"


def encode_path(path: str) -> str:
    """A decoded path, percent-encoded as it may stand in a URL. ``%`` itself is encoded too."""
    return path if path.isascii() and _is_plain(path) else quote(path, safe=_PATH_SAFE)


_is_plain = re.compile(r"[A-Za-z0-9/:@!$&'()*+,;=\-._~]*").fullmatch


class Request:
    """A client's request, or what an inbound policy made of it.

    ``raw_path`` is percent-encoded as on the wire, ``path`` decoded; ``query_string`` has no ``?``. ``params`` holds
    the route's path parameters, decoded. ``user`` is None until an authentication policy has set it. The body is read
    at most once from the client; `bytes`, `text` and `json` may be called again, `stream` not after any of them failed.
    """

    __slots__ = (
        "_body",
        "_query",
        "client",
        "headers",
        "method",
        "params",
        "query_string",
        "raw_path",
        "scheme",
        "user",
    )

    def __init__(
        self,
        method: str,
        raw_path: str,
        query_string: str = "",
        headers: Headers | None = None,
        body: RequestBody | bytes = EMPTY_BODY,
        *,
        scheme: str = "http",
        client: str = "",
        params: Mapping[str, str] | None = None,
        user: User | None = None,
    ) -> None:
        self.method = method
        self.raw_path = raw_path
        self.query_string = query_string
        self.headers = Headers() if headers is None else headers
        self._body: RequestBody = BytesBody(body) if isinstance(body, bytes) else body
        self.scheme = scheme
        self.client = client
        self.params: Mapping[str, str] = params if params is not None else {}
        self.user = user
        self._query: dict[str, str] | None = None

    @property
    def path(self) -> str:
        return unquote(self.raw_path) if "%" in self.raw_path else self.raw_path

    @property
    def host(self) -> str:
        """``name:port`` as the client asked for it; empty where it did not say."""
        return self.headers.get("host") or ""

    @property
    def url(self) -> str:
        """The whole URL, ``http://host/path?query``."""
        query = f"?{self.query_string}" if self.query_string else ""
        return f"{self.scheme}://{self.host}{self.raw_path}{query}"

    @property
    def query(self) -> dict[str, str]:
        """The query parameters, decoded; of one given several times the last. Empty values stay."""
        if self._query is None:
            self._query = dict(parse_qsl(self.query_string, keep_blank_values=True))
        return self._query

    @property
    def has_body(self) -> bool:
        return self._body is not EMPTY_BODY

    @property
    def body(self) -> RequestBody:
        return self._body

    async def bytes(self) -> bytes:
        """The whole body. Raises `BodyTooLarge`, and `BodyConsumed` where it was streamed on already."""
        if not isinstance(self._body, BytesBody):
            data = await self._body.read()
            if self._body is not EMPTY_BODY:
                self._body = BytesBody(data)
            return data
        return self._body.data

    async def text(self) -> str:
        """The body as UTF-8; what is not UTF-8 becomes U+FFFD."""
        return (await self.bytes()).decode("utf-8", "replace")

    async def json(self) -> Any:
        """The body read as JSON. Raises ValueError where it is not."""
        return _decode_json(await self.bytes())

    def stream(self) -> Chunks:
        """The body chunk by chunk, as it arrives."""
        return self._body.stream()

    def replace(self, **changes: Any) -> Request:
        """A copy with other ``method``, ``raw_path``, ``query_string``, ``headers``, ``body``, ``params`` or ``user``."""
        kept = {
            "method": self.method,
            "raw_path": self.raw_path,
            "query_string": self.query_string,
            "headers": self.headers.copy(),
            "body": self._body,
            "scheme": self.scheme,
            "client": self.client,
            "params": self.params,
            "user": self.user,
        }
        return Request(**{**kept, **changes})

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.raw_path} user={self.user.sub if self.user else None}>"


class StreamedBody:
    """A response body that comes chunk by chunk and may have to be closed before its end.

    ``length`` is the number of bytes that will come, None where nobody knows. ``close`` is awaited once, whatever
    happened; it frees the connection behind the body. ``prompt`` says that the first chunk is there already, so that
    the head may wait for it.
    """

    __slots__ = ("chunks", "close", "length", "prompt")

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        length: int | None = None,
        close: Callable[[], Awaitable[None]] | None = None,
        *,
        prompt: bool = False,
    ) -> None:
        self.chunks = chunks
        self.length = length
        self.close = close
        self.prompt = prompt


class _KeptForTheClient:
    """The chunks of a streamed body as a hook sees them: not at all."""

    def __aiter__(self) -> _KeptForTheClient:
        return self

    async def __anext__(self) -> bytes:
        raise BodyConsumed(
            "this body is streamed to the client; an outbound policy can put itself between its chunks"
        )


class Response:
    """An answer: status, headers and a body.

    The body is bytes, text (UTF-8), None (empty), an async iterator of bytes, or anything else, which becomes JSON. A
    ``content-type`` is set for text and JSON where the headers name none. A ``content-length`` is the server's affair.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        body: Any = None,
        status: int = 200,
        headers: Headers | Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> None:
        if status not in _FINAL_STATUSES:
            raise UsageError(f"{status!r} is not a status of a final response: use a number from 200 to 599")
        self.status = status
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self.body: bytes | StreamedBody
        if isinstance(body, bytes | StreamedBody):
            self.body = body
        elif body is None:
            self.body = b""
        elif isinstance(body, str):
            self.body = body.encode()
            self._content_type("text/plain; charset=utf-8")
        elif hasattr(body, "__aiter__"):
            self.body = StreamedBody(aiter(body))
        else:
            self.body = _encode_json(body)
            self._content_type("application/json")

    @classmethod
    def trusted(cls, status: int, headers: HeaderItems, body: bytes | StreamedBody) -> Response:
        """A response of parts that are known to be valid; nothing is checked or copied."""
        response = cls.__new__(cls)
        response.status = status
        response.headers = Headers.trusted(headers)
        response.body = body
        return response

    def _content_type(self, value: str) -> None:
        if "content-type" not in self.headers:
            self.headers.append("content-type", value)

    async def bytes(self) -> bytes:
        """The whole body; a streamed one is read to its end and kept."""
        if isinstance(self.body, StreamedBody):
            streamed = self.body
            try:
                self.body = b"".join([chunk async for chunk in streamed.chunks])
            finally:
                if streamed.close is not None:
                    await streamed.close()
        return self.body

    def snapshot(self) -> Response:
        """A copy to look at: nothing done to it changes this one. A streamed body cannot be read from it."""
        body = self.body
        if isinstance(body, StreamedBody):
            body = StreamedBody(_KeptForTheClient(), body.length)
        return Response.trusted(self.status, self.headers.items.copy(), body)

    def __repr__(self) -> str:
        size = "streamed" if isinstance(self.body, StreamedBody) else f"{len(self.body)} bytes"
        return f"<Response {self.status} {size}>"
