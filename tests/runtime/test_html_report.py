"""The HTML page of a report: whole in itself, everything escaped, both texts kept word for word."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa.html_report import Change, Section, Table, render_page

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> & \" ' </pre></style>"


class Reader(HTMLParser):
    """Elements in order, and the text of every <pre>."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "pre":
            self._inside = True
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "pre"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[-1] += data


def page(before: str = "old words", after: str = "new words", title: str = "pdf") -> str:
    change = Change(title, before, after, "edited: steps", (title,))
    table = Table(("a", title), (("1", title),), right=(0,))
    return render_page(title, [title], [Section(title, title, True, [title], [table], [change])] * 2)


def test_a_page_fetches_nothing_and_runs_nothing() -> None:
    elements = Reader(page(HOSTILE, "x", HOSTILE)).elements
    assert not {tag for tag, _ in elements} & {"script", "img", "link", "iframe", "object", "form"}
    for _, attributes in elements:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        assert (attributes.get("href") or "#").startswith("#")
    assert "default-src 'none'" in next(str(a["content"]) for _, a in elements if "http-equiv" in a)


@given(st.text(), st.text())
def test_both_texts_are_on_the_page_whole(before: str, after: str) -> None:
    def shown(text: str) -> str:
        return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text.replace("\r\n", "\n"))

    texts = Reader(page(before, after)).texts
    wanted = [before] if before == after else [before, after]
    # A parser drops the line break right behind <pre>; nobody sees it.
    assert [text.lstrip("\n") for text in texts] == [shown(text).lstrip("\n") for text in wanted * 2]
    page(before, after).encode("utf-8")


def test_only_what_differs_is_marked() -> None:
    text = page("Open the file, then read it.", "Open the file. Then read it.")
    assert re.findall(r"<del>(.*?)</del>", text)[:2] == ["file,", "then"]
    assert re.findall(r"<ins>(.*?)</ins>", text)[:2] == ["file.", "Then"]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_a_page_that_fits_its_window(tmp_path: Path, width: int, scheme: str) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    words = "Read the inventory and write `report.md`. " * 8 + "a" * 300
    # A page may run no script, so that the one which measures it needs its policy taken out. A window is never as
    # narrow as a phone, a frame is.
    probe = (
        "<script>parent.postMessage([document.documentElement.scrollWidth <= innerWidth,"
        " getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('.pair')).gridTemplateColumns.split(' ').length].join(), '*')"
        "</script>"
    )
    text = re.sub(
        r"<meta http-equiv[^>]*>", "", page(words, words.replace("Read", "Open"), "numbers 1,234 → 5,678 " * 9)
    )
    (tmp_path / "report.html").write_text(text.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<script>onmessage = event => document.title = event.data</script>"
        f"<iframe src='report.html' style='border:0;width:{width}px;height:900px'></iframe>"
    )
    colours = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", profile, colours, "--window-size=1400,1000",
         "--virtual-time-budget=2000", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    paper = "rgb(13, 17, 23)" if scheme == "dark" else "rgb(255, 255, 255)"
    assert f"<title>true,{paper},{1 if width == 390 else 2}</title>" in done.stdout, done.stdout[:600]
