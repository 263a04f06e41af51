"""Command line in, exit code out: the door that `persona-lab` and `python -m persona_lab` share."""

import sys
from pathlib import Path

from persona_lab import cli
from persona_lab.errors import UserError


def main() -> None:
    """Run the command line; a user's error is one line and exit code 1."""
    # Own classes are named by dotted path: both forms of the program find them where one works.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        cli.launch(sys.argv[1:])
    except UserError as error:
        raise SystemExit(f"persona-lab: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
