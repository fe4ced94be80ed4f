"""The command, which also runs as ``python -m fromnoise`` (what ``torchrun -m`` and ``accelerate launch -m`` need)."""

import sys

from fromnoise import signals


def main() -> int:
    """Runs the command line; returns the exit status."""
    signals.listen()
    try:
        from fromnoise.cli import main as run  # only now, so that it can be stopped while it is imported

        status = run()
    except KeyboardInterrupt as stop:
        status = signals.farewell(stop)
    finally:
        signals.ignore()
    return signals.end(status)


if __name__ == "__main__":
    sys.exit(main())
