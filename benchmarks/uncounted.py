"""``metergate`` as it would be without the local count of usage: what others do, on the same engine."""

from metergate.cli import main
from metergate.engine.backends import Backends


def _count_nothing(self: Backends, *_: object) -> None:
    pass


Backends._begin_to_count = _count_nothing  # type: ignore[method-assign,assignment]

if __name__ == "__main__":
    main()
