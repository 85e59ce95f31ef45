"""How the office files. Nothing of it is told in the commands or on the papers.

The banks in `configs/banks/filing` state all of it, and nothing else does; `tests/training/test_filing_banks.py`
compares them with these tables.
"""

from __future__ import annotations

from collections.abc import Mapping

BILLS: Mapping[str, str] = {"energy": "north", "phone": "east", "car": "south", "insurance": "west"}
"""The drawer of a bill, by what it is for. Its name is the date and the sender."""

LETTERS: Mapping[str, str] = {"health": "west", "school": "north", "council": "east", "club": "south"}
"""The drawer of a letter, by what it is about. Its name is the sender and the date."""

RECEIPTS: Mapping[str, str] = {"tools": "south", "clothes": "west", "food": "north", "books": "east"}
"""The drawer of a receipt, by what was bought. Its name is the shop and the euros without cents."""

WARRANTIES = "attic"
"""The drawer of warranties. A warranty's name is the thing and the last year in which it holds."""

POST: Mapping[str, str] = {"lena": "lena", "mira": "lena", "otto": "paul", "paul": "paul"}
"""Who gets the post for a person: mira and otto are away."""

ADVERTS: Mapping[str, str] = {"garden": "mira", "tools": "otto"}
"""Who gets an advert, by what it offers; all others are discarded."""

LABELS: Mapping[str, str] = {"not paid": "red", "answer": "blue", "sign": "green"}
"""The label of a paper, by what is still to be done with it."""

JOIN = "_"
"""Between the parts of a name. A date is written as in 2026-03-05, a firm by the first word of its name and a person
by the last, in small letters."""
