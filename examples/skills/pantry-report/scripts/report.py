#!/usr/bin/env python3
"""Print what to buy (BUY), what to use up (USE) and what has expired (BAD), one line per finding."""

from __future__ import annotations

import argparse
import csv
import sys
from datetime import date, timedelta
from pathlib import Path


def findings(path: Path, today: date, days: int) -> list[str]:
    """One line per finding; a line of the file that cannot be read raises ValueError with its number."""
    lines = []
    with path.open(newline="", encoding="utf-8") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            try:
                amount, minimum = float(row["amount"]), float(row["minimum"] or 0)
                expires = date.fromisoformat(row["expires"]) if row["expires"] else None
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"line {number}: {error}") from error
            if amount < minimum:
                lines.append(f"BUY {row['item']} {minimum - amount:g} {row['unit']}")
            if expires and expires < today:
                lines.append(f"BAD {row['item']} since {expires}")
            elif expires and expires <= today + timedelta(days=days):
                lines.append(f"USE {row['item']} until {expires}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inventory", type=Path)
    parser.add_argument("--days", type=int, default=7, help="how many days ahead counts as soon")
    given = parser.parse_args()
    try:
        print("\n".join(findings(given.inventory, date.today(), given.days)))
    except (OSError, ValueError) as error:
        print(f"{given.inventory}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
