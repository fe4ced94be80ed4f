"""The command, which also runs as ``python -m fromnoise`` (what ``torchrun -m`` and ``accelerate launch -m`` need)."""

import sys

from fromnoise import signals


def main() -> int:
    """Runs the command line; returns the exit status."""

    def command() -> int:
        from fromnoise.cli import main  # only now, so that it can be stopped while it is imported

        return main()

    return signals.stoppable(command)


if __name__ == "__main__":
    sys.exit(main())
