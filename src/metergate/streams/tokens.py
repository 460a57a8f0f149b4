"""The tokens of one response, taken from its documents while they pass."""

from __future__ import annotations

from typing import final

from metergate.errors import UsageError
from metergate.streams.providers import PROVIDERS
from metergate.streams.usage import Tally, Usage, summed_up


@final
class Tokens:
    """Reads the usage of one response of a provider (``PROVIDERS`` has their names).

    With ``estimate``, output that the provider did not say, or not finally, is reckoned from the characters that the
    model wrote (`CHARACTERS_PER_TOKEN`). Raises UsageError for a provider that is not known.
    """

    __slots__ = ("_estimate", "_provider", "_read", "_tally")

    def __init__(self, provider: str, *, estimate: bool = False) -> None:
        if provider not in PROVIDERS:
            raise UsageError(
                f'"{provider}" is no provider whose usage is known; known are {", ".join(PROVIDERS)}'
            )
        self._provider = PROVIDERS[provider]
        self._read = self._provider.read
        self._estimate = estimate
        self._tally = Tally()

    def read(self, document: bytes, *, cut: bool = False) -> None:
        """Take one JSON document: the body, or one event's data. ``cut``: it was cut off and mended, so whatever it
        says, it is not the end. Raises ValueError or RecursionError where it is none of the provider's."""
        tally = self._tally
        ended, final = tally.ended, tally.final
        self._read(document, tally)
        if cut:
            tally.ended, tally.final = ended, final

    def finish(self, *, whole: bool) -> Usage | None:
        """What was used, as far as was seen; None where nothing was. ``whole``: the response came to its own end."""
        tally = self._tally
        partial = not (tally.final or (whole and tally.ended))
        return summed_up(tally, self._provider.counts(tally.said), partial=partial, estimate=self._estimate)
