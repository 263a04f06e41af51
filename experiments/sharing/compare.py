"""Two sweeps over seeds -> how far their errors are apart, with intervals over users and seeds.

Usage: python experiments/sharing/compare.py <sweep> <sweep minus>
"""

import sys
from pathlib import Path

import pandas as pd

from persona_lab.evaluation import contrast


def side(sweep: Path) -> list[pd.DataFrame]:
    """Predictions of a sweep's runs, in the order of their seeds."""
    return [pd.read_parquet(file) for file in sorted(sweep.glob("*/predictions.parquet"))]


def main() -> None:
    """Print the difference."""
    ours, theirs = (side(Path(each)) for each in sys.argv[1:])
    found = contrast(ours, theirs, prediction="expected")
    if found is None:
        raise SystemExit("the sweeps rate different rows")
    print(f"{len(ours)} and {len(theirs)} seeds, {found.n} rows")
    for name, each in found.differences.items():
        print(f"{name}: {each.value:+.4f} [{each.low:+.4f}, {each.high:+.4f}]")


if __name__ == "__main__":
    main()
