"""How the office files. Nothing of it is told in the commands or on the papers.

The banks in `configs/banks/filing` state all of it, and nothing else does; `tests/training/test_filing_banks.py`
compares them with these tables.
"""

from __future__ import annotations

from collections.abc import Mapping

BILLS = ("energy", "phone", "car", "insurance")
"""The drawer of a bill is what it is for. Its name is the date and the sender."""

LETTERS = ("health", "school", "council", "club")
"""The drawer of a letter is what it is about. Its name is the sender and the date."""

RECEIPTS = ("tools", "clothes", "food", "books")
"""The drawer of a receipt is what was bought. Its name is the shop and the euros without cents."""

WARRANTIES = "attic"
"""The drawer of warranties. A warranty's name is the thing and the last year in which it holds."""

POST: Mapping[str, str] = {"lena": "lena", "mira": "lena", "otto": "paul", "paul": "paul"}
"""Who gets the post for a person: mira and otto are away."""

ADVERTS: Mapping[str, str] = {"garden": "mira"}
"""Who gets an advert, by what it offers; all others are discarded."""

LABELS: Mapping[str, str] = {"not paid": "red", "answer": "blue", "sign": "green"}
"""The label of a paper, by what is still to be done with it."""

JOIN = "_"
"""Between the parts of a name. A date is written as in 2026-03-05, a firm by the first word of its name and a person
by the last, in small letters."""
