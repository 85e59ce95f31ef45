"""Lines that survive a kill."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from masa_training.journal import append_lines, whole_lines


@given(st.lists(st.text(max_size=30), max_size=6), st.data())
@settings(max_examples=50, deadline=None)
def test_a_kill_at_any_byte_loses_the_torn_line_alone(
    tmp_path_factory: object, texts: list[str], data: st.DataObject
) -> None:
    path = Path(tmp_path_factory.mktemp("journal")) / "events.jsonl"  # type: ignore[attr-defined]
    for text in texts:
        append_lines(path, json.dumps(text, ensure_ascii=False) + "\n")
    written = path.read_bytes() if texts else b""
    cut = data.draw(st.integers(0, len(written)))
    path.write_bytes(written[:cut])
    kept = written[:cut].count(b"\n")
    assert [json.loads(line) for line in whole_lines(path)] == [
        t.encode("utf-8", "replace").decode() for t in texts[:kept]
    ]
    append_lines(path, '"more"\n')
    assert len(whole_lines(path)) == kept + 1


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert whole_lines(tmp_path / "none") == []
