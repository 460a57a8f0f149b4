"""HTTP to one OpenMeter: a request goes out, a body or a lack comes back, everything else raises."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from datetime import timedelta

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.request import RequestBuilder

from metergate.errors import ConfigurationError, OpenMeterOutage
from metergate.openmeter.problems import Lack, read_answer


class Connection:
    """The HTTP client of one OpenMeter, for one event loop at a time.

    Nothing is opened before the first request, so it can be made before the event loop runs and before a fork:
    the connections belong to the process that asks.
    """

    def __init__(
        self,
        api_url: str,
        api_key: str,
        *,
        timeout_seconds: float,
        most_connections: int,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            api_url: where OpenMeter is, without ``/api/v1``.
            api_key: sent as ``Authorization: Bearer``; in no log, error or repr.
            timeout_seconds: for each request from connecting to the last byte, waiting for a connection
                included.
            most_connections: requests under way at once; more wait.
            wall_clock: seconds since 1970.
        """
        self.base = api_url.rstrip("/")
        self.on_request: Callable[[], None] = _nothing
        """Called before each request, for who counts them."""
        self.visibility_seconds: float | None = None
        """After which time the server sees what it has acknowledged, where it says so (the embedded one does)."""
        self._key = api_key
        self._timeout = timedelta(seconds=timeout_seconds)
        self._most_connections = most_connections
        self._wall_clock = wall_clock
        self._client: Client | None = None
        self._process = 0

    async def get(self, path: str, endpoint: str) -> bytes | Lack:
        """The body at a path, or what is lacking.

        Args:
            endpoint: how an error names what was asked, without names of subjects in it.

        Raises:
            OpenMeterUnauthorized, OpenMeterThrottled, OpenMeterOutage: see `read_answer`.
        """
        return await self._send(self._connected().get(self.base + path), endpoint)

    async def post(
        self, path: str, body: bytes, endpoint: str, *, absent: frozenset[int] = frozenset()
    ) -> bytes | Lack:
        """The answer to a JSON body. A status in ``absent`` is ``Lack.ABSENT``, whoever sent it.

        Raises:
            As ``get``.
        """
        request = self._connected().post(self.base + path).header("content-type", "application/json")
        return await self._send(request.body_bytes(body), endpoint, absent)

    async def close(self) -> None:
        """Close the connections of this process. A later request opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._process == os.getpid():
            await client.close()

    async def _send(
        self, request: RequestBuilder, endpoint: str, absent: frozenset[int] = frozenset()
    ) -> bytes | Lack:
        self.on_request()
        try:
            response = await request.build().send()
            body = bytes(await response.bytes())
        except PyreqwestError as error:
            # Without the error's own text: it holds the URL, and with it the subject.
            raise OpenMeterOutage(
                f"{endpoint}: no answer from {self.base} ({type(error).__name__})"
            ) from error
        self.visibility_seconds = _seconds(response.get_header("metergate-visibility-seconds"))
        if response.status in absent:
            return Lack.ABSENT
        return read_answer(
            response.status,
            response.get_header("content-type") or "",
            response.get_header("retry-after"),
            body,
            endpoint=endpoint,
            wall_time=self._wall_clock(),
        )

    def _connected(self) -> Client:
        """This process's HTTP client. One that was opened before a fork belongs to the parent and is left
        alone.
        """
        if self._client is None or self._process != os.getpid():
            self._client, self._process = self._open(), os.getpid()
        return self._client

    def _open(self) -> Client:
        headers = {"accept": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        try:
            builder = ClientBuilder().user_agent("metergate").default_headers(headers)
        except ValueError:
            raise ConfigurationError(
                "apiKey holds characters that no HTTP header can carry (a line break?)"
            ) from None
        return (
            builder.follow_redirects(False)
            .timeout(self._timeout)
            .connect_timeout(self._timeout)
            .max_connections(self._most_connections)
            .pool_timeout(self._timeout)
            .build()
        )


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def _nothing() -> None:
    """Nobody counts."""
