"""``python -m metergate``: the command line."""

from metergate.cli import main

if __name__ == "__main__":
    main()
