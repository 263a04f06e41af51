"""`python -m persona_lab.ledger list|sum|export|import`: what LLMs were asked, and what it cost.

An exported ledger, imported elsewhere, repeats a paid distillation without a key.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
            lines = sys.stdin if given.file == "-" else _lines(Path(given.file))
            print(f"{import_lines(path, lines)} calls added to {path}")
        else:
            _print(attempts(path) if given.doing == "list" else totals(path))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _lines(file: Path) -> list[str]:
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.readlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}", "name an exported file") from error


def _print(rows: Sequence[dict[str, Any]]) -> None:
    """Columns separated by tabs, under their names."""
    if rows:
        print("\t".join(rows[0]))
    for row in rows:
        print("\t".join(f"{v:.6f}" if k == "money" else str(v) for k, v in row.items()))


if __name__ == "__main__":
    sys.exit(main())
