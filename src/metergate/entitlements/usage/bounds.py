"""What OpenMeter's answers of one period have in common: how far a feature may be used, whenever it was asked.

An answer allows its balance and what that holds of what was recorded here. How much that is is known only from
below and from above: the base, and all that was recorded when the answer came. While nobody tops up and no
period ends, every answer of OpenMeter allows the same, whichever process asked; so each narrows what is known. An
answer that allows more than that tells of something new: a grant, a reset, another plan, or a period that begins.

Shared by all processes of the host without a lock: of two that write at a time one is forgotten, which the
next answer makes good.
"""

from __future__ import annotations

_ROUNDING = 1e-9
_LEAST_NUMBER = 5e-324
"""Stands for zero where zero stands for nothing known."""


class Bounds:
    """For each place the least and the most that all answers since something was new have allowed."""

    def __init__(self, words: memoryview[int]) -> None:
        """``words``: two of 8 bytes for each place, zero at first."""
        self._numbers: memoryview[float] = words.cast("B").cast("d")

    def least(self, place: int) -> float:
        """What may be used at least: what an early answer is replaced by."""
        return self._numbers[2 * place]

    def exceeds(self, place: int, amount: float) -> bool:
        """Whether an answer that allows at least this much tells of something new."""
        most = self._numbers[2 * place + 1]
        return most != 0.0 and amount > most + _ROUNDING * (1.0 + abs(most))

    def allow(self, place: int, amount: float) -> bool:
        """Whether the answers so far allow this much; as long as there was none it is not known that they do not."""
        return self._numbers[2 * place + 1] == 0.0 or amount <= self._numbers[2 * place]

    def begin(self, place: int, least: float, most: float) -> None:
        """Something is new: from now on an answer allows at least and at most this."""
        self._numbers[2 * place] = least
        self._numbers[2 * place + 1] = most or _LEAST_NUMBER

    def rise_to(self, place: int, amount: float) -> None:
        """At least this much is allowed by now."""
        if amount > self._numbers[2 * place]:
            self.begin(place, amount, amount)

    def narrow(self, place: int, least: float, most: float) -> None:
        """Another answer, which allows at least and at most this."""
        known = self._numbers[2 * place + 1]
        if known == 0.0:
            self.begin(place, least, most)
            return
        most = min(known, most)
        self._numbers[2 * place] = min(max(self._numbers[2 * place], least), most)
        self._numbers[2 * place + 1] = most or _LEAST_NUMBER

    def forget(self, place: int) -> None:
        """Nothing is known: the place goes to somebody else."""
        self._numbers[2 * place] = self._numbers[2 * place + 1] = 0.0
