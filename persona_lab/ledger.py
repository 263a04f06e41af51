"""`python -m persona_lab.ledger list|sum|export|import`: what LLMs were asked, and what it cost.

An exported ledger, imported elsewhere, repeats a paid distillation without a key.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from persona_lab.distill.ledger import attempts, export, import_lines, totals
from persona_lab.errors import UserError
from persona_lab.sources import Sources, default_cache


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked and return the exit code: 1 after a user's error."""
    parser = argparse.ArgumentParser(prog="python -m persona_lab.ledger", description=__doc__)
    parser.add_argument("--cache", type=Path, help="its folder (default: PERSONA_LAB_CACHE)")
    doing = parser.add_subparsers(dest="doing", required=True)
    doing.add_parser("list", help="every attempt, in the order of time")
    doing.add_parser("sum", help="calls, tokens and money by purpose, model and outcome")
    doing.add_parser("export", help="write every answered call as a line of JSON")
    doing.add_parser("import", help="add what export wrote, from a file or -").add_argument("file")
    given = parser.parse_args(arguments)
    path = Sources(given.cache or default_cache()).ledger
    try:
        if given.doing == "export":
            sys.stdout.writelines(f"{line}\n" for line in export(path))
        elif given.doing == "import":
            try:
                with open(0 if given.file == "-" else given.file, encoding="utf-8") as file:
                    added = import_lines(path, file)
            except (OSError, UnicodeDecodeError) as error:
                mend = "name an exported file"
                raise UserError(f"{given.file} cannot be read: {error}", mend) from error
            print(f"{added} calls added to {path}")
        else:
            rows = attempts(path) if given.doing == "list" else totals(path)
            for row in rows[:1]:
                print("\t".join(row))
            for row in rows:
                print("\t".join(f"{v:.6f}" if k == "money" else str(v) for k, v in row.items()))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
