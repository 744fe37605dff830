"""The program, as `optima-lite` and as `python -m optima_lite`: the command line, and a quiet Ctrl-C while it is read.

The command line and what it needs take a third of a second to read; whatever is imported here is read before that.
"""

from __future__ import annotations

import sys


def main() -> None:
    """The console script. Commands end an interruption themselves; this is for the moments before one begins."""
    try:
        from .cli.app import main as command_line

        command_line()
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
