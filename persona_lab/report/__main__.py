"""`python -m persona_lab.report <folder>...`: print the table and write it again.

With --wandb it is shown in Weights & Biases, too.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from persona_lab.errors import UserError
from persona_lab.report import build, print_table, write
from persona_lab.sources import Sources, default_cache


def main(arguments: Sequence[str] | None = None) -> int:
    """Report on run folders and return the exit code: 1 after a user's error."""
    parser = argparse.ArgumentParser(prog="python -m persona_lab.report", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="sweeps' or runs' folders")
    parser.add_argument("--into", type=Path, help="where to write (default: the folder itself)")
    parser.add_argument("--wandb", action="store_true", help="make a W&B Report of it, too")
    options = parser.parse_args(arguments)
    try:
        if options.into is None and len(options.folders) > 1:
            raise UserError("several folders were given", "add --into <folder for the report>")
        report = build(*options.folders)
        print_table(report)
        into = options.into or options.folders[0]
        for path in write(report, into, Sources(default_cache())):
            print(path)
        if options.wandb:
            from persona_lab.report.online import publish  # what only this asks for

            print(publish(report, into))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
