"""The command line: one module per command. ``metergate --help`` lists them.

What only some commands need is imported in the command itself: each works with the extras that it needs, and says what to
install where one is missing.
"""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point of ``metergate``."""
    try:
        from metergate.cli.application import run
    except ModuleNotFoundError as missing:
        from metergate.cli.extras import advice

        if (text := advice(missing)) is None:
            raise
        print(text, file=sys.stderr)
        sys.exit(2)
    sys.exit(run())
