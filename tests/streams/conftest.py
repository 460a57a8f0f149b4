"""What the tests of the streams room share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from metergate.streams import Reading, Tokens, Watch

TYPES = {"sse": "text/event-stream; charset=utf-8", "json": "application/json"}


@pytest.fixture(scope="session")
def read() -> Callable[..., Reading]:
    """Shows chunks to a watch for the tokens of a provider and answers what it has read."""

    def read(
        provider: str,
        chunks: Iterable[bytes],
        *,
        kind: str = "sse",
        encoding: str = "",
        whole: bool = True,
        estimate: bool = False,
    ) -> Reading:
        watch = Watch(TYPES[kind], encoding, tokens=Tokens(provider, estimate=estimate))
        for chunk in chunks:
            watch.feed(chunk)
        return watch.finish(whole=whole)

    return read
