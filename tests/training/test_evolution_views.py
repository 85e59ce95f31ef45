"""Views of a run: the report tells what the record holds and nothing else, the live view follows it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from masa.codec import group_to_json
from masa.html_report import pieces
from masa.skills import GENERAL, Group, Skill
from masa_training.commands.evolve import command
from masa_training.errors import TrainingError
from masa_training.evolution.run import Underway, evolve
from masa_training.evolution.run_log import CONFIG, EVENTS, read_run
from masa_training.evolution.views.drawings import curve, interval_of, state_of, tree
from masa_training.evolution.views.live import LiveView, Row, Standing, Used, cells, fitting, used_line
from masa_training.evolution.views.markdown import MARKDOWN, write_markdown
from masa_training.evolution.views.numbers import by_type
from masa_training.evolution.views.report import REPORT, SCRIPT, difference, write_report
from masa_training.rollouts import Episode
from masa_training.search import Proposal, SequentialPaired, State, Verdict, event_to_json, hill_climb, tree_search
from masa_training.search.simulated import simulated_backbone, simulated_teacher
from tests.training.test_evolution import Reader, config

VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = '</details></script><script>alert(1)</script><img src=x onerror="alert(2)"> {{ 7*7 }} & \' " ‮evil\x1b[31m'


class Page(HTMLParser):
    """A page taken apart; elements that are not closed in order are noted as broken."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.classes: Counter[str] = Counter()
        self.policy = ""
        self.broken: list[str] = []
        self.texts: list[str] = []
        self.script = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.broken += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values["href"] or ""] if "href" in values else []
        self.classes[values.get("class") or ""] += 1
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.broken.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.script += data
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def group_of(key: str, wordings: tuple[int, ...], words: str = "Do this.") -> Group:
    skills = tuple(
        Skill(f"s{i}", f"Title {i}", f"{words} {w} " * (w % 3 + 1), f"if {w}") for i, w in enumerate(wordings)
    )
    return Group(None if key == GENERAL else key, skills)


def simulated_run(
    folder: Path, keys: tuple[str, ...], *, rounds: int, words: str = "Do this.", finished: bool = True
) -> Path:
    """The record of a run on simulated backbones, without single episodes; `finished` or without the last result."""
    lines: list[dict[str, Any]] = [
        {
            "event": "run",
            "format": 2,
            "environment": "sim",
            "backbone": words,
            "card": {"family": words},
            "groups": keys,
        }
    ]
    for number, key in enumerate(keys):
        backbone = simulated_backbone(number)
        asked: dict[str, Any] = {
            "propose": simulated_teacher(backbone),
            "evaluate": backbone.evaluate,
            "accept": SequentialPaired(most=40, alpha=0.25),
        }
        if key == GENERAL:
            trace = hill_climb(backbone.start, rounds=rounds, patience=rounds, **asked)
        else:
            trace = tree_search(backbone.start, iterations=rounds, exploration=0.3, **asked)
        for event in trace.events:
            told = event_to_json(event, lambda w, key=key: group_to_json(group_of(key, w, words)))  # type: ignore[misc]
            named = {"bank": f"{number}-{event.node}"} if isinstance(event, Proposal) and event.node is not None else {}
            lines.append({**told, "group": key, **named})
            if named and event.round:
                said = {
                    "note": words,
                    "plan": {"edits": [[words]], "warnings": []},
                    "attribution": {words: 0.5},
                    "tokens": 100,
                    "dollars": 0.25,
                }
                lines.append({"event": "rewrite", "group": key, "round": event.round, "parent": 0, **said})
        if finished or key != keys[-1]:
            lines.append({"event": "ended", "group": key, "best": trace.best})
    folder.mkdir(parents=True)
    (folder / EVENTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / CONFIG).write_text(yaml.safe_dump({"name": words, "penalty": 0.25, "budget": {"dollars": 9.5}}))
    return folder


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text("utf-8"))


def check(page: Page) -> None:
    """What holds for every report."""
    assert page.broken == [] and page.script == SCRIPT and page.tags["script"] == 1
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.policy and page.policy.startswith("default-src 'none';")
    assert not page.attributes & {"src", "onerror", "onload", "onclick", "srcset", "style", "action"}
    assert not {"img", "link", "iframe", "object", "base"} & set(page.tags)
    assert len(set(page.ids)) == len(page.ids)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links), "every link leads to a place here"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small whole run with a simulated reader, watched while it went."""
    folder = tmp_path_factory.mktemp("real")
    settings = config(folder / "c.yaml", rounds=2, iterations=2, test_tasks=20, accept={"pairs": 20})
    seen: list[list[Row]] = []
    standings: list[Standing] = []
    used: list[list[Used]] = []

    def look(_: object) -> None:
        seen.append(standings[0].rows())
        used.append(standings[0].used())

    def begun(underway: Underway) -> None:
        standings.append(Standing(underway))
        look(None)

    evolved = evolve(settings, folder / "run", model=Reader(), told=look, begun=begun)
    seen.append(standings[0].rows())
    assert evolved.ended == ""
    # What a live view would have shown.
    assert [row.state for row in seen[0]] == ["waiting", "waiting"]
    assert {row.state for rows in seen for row in rows} == {"waiting", "searching", "done"}
    for key, last in zip((GENERAL, "comparison"), seen[-1], strict=True):
        numbers = evolved.searches[key]
        assert last.key == key and last.state == "done" and last.round == numbers["proposals"] == last.rounds == 2
        fared = (last.accepted, last.rejected, last.indecisive, last.failed)
        assert fared == tuple(numbers[name] for name in ("accepted", "rejected", "indecisive", "failed"))
        assert last.reward is not None and last.sr is not None
    rounds = [rows[0].round for rows in seen]
    assert rounds == sorted(rounds)
    assert seen[-1][1].sr == seen[-1][1].reward, "without a penalty the reward is the success rate"
    assert standings[0].tested == 3 * 20
    (episodes,) = [one.used for one in used[-1] if one.name == "episodes"]
    assert 0 < episodes <= evolved.episodes - 3 * 20
    return folder / "run"


def test_a_report_tells_what_the_run_came_to(real: Path) -> None:
    page = page_of(real)
    check(page)
    story = read_run(real)
    assert story.finished and "unfinished" not in page.ids
    nodes = sum(len(group.state.nodes) for group in story.searches.values())
    assert page.classes["node"] == nodes and page.classes["skill"] > nodes
    for group in story.searches.values():
        for event in group.state.events:
            if isinstance(event, Verdict):
                assert event.decision.reason in page.text
    (evolved,) = [row for row in story.test["rows"] if row["arm"] == "evolved"]
    found = evolved["SR"]
    assert f"{found['estimate']:.0%} [{found['low']:.0%}, {found['high']:.0%}]" in page.text
    assert page.tags["ins"] and page.tags["del"], "rewrites are shown word by word"


def test_the_report_in_markdown_tells_the_same(real: Path, tmp_path: Path) -> None:
    story = read_run(real)
    text = write_markdown(real).read_text("utf-8")
    assert "PARTIAL" not in text
    accepted = [node for group in story.searches.values() for node in group.state.nodes if state_of(node) == "accepted"]
    assert accepted and all(node.decision is not None and node.decision.reason in text for node in accepted)
    (evolved,) = [row for row in story.test["rows"] if row["arm"] == "evolved"]
    assert f"| evolved | {evolved['episodes']} |" in text
    for key, group in story.searches.items():
        start, best = (len(group.state.nodes[node].candidate.skills) for node in (0, group.state.best))
        assert f"| {key} | {start} → {best} |" in text
    lines = (real / EVENTS).read_bytes().split(b"\n")
    (tmp_path / EVENTS).write_bytes(b"\n".join(lines[: len(lines) // 3]) + b"\n")
    assert "(PARTIAL)" in write_markdown(tmp_path).read_text("utf-8").splitlines()[0]


def test_rates_by_task_type_are_those_of_the_episodes(real: Path) -> None:
    story = read_run(real)
    tree_story = story.searches["comparison"]
    best = tree_story.banks[tree_story.state.best]
    won = [
        episode.success
        for key, episode in story.episodes.items()
        if key.split == "val" and key.bank == best and episode.task_type == "comparison"
    ]
    (row,) = [row for row in by_type(story) if row.task_type == "comparison"]
    assert row.episodes == len(won) and row.best is not None
    assert row.best["estimate"] == pytest.approx(sum(won) / len(won))
    assert row.difference is not None and row.difference["estimate"] is not None and row.difference["estimate"] > 0
    assert {row.task_type for row in by_type(story)} > {"comparison"}, "the general skills were tried on all types"


def test_a_run_that_goes_on_can_be_looked_at_and_is_not_touched(real: Path, tmp_path: Path) -> None:
    lines = (real / EVENTS).read_bytes().split(b"\n")
    for share in (0, 0.02, 0.3, 0.7):
        folder = tmp_path / str(share)
        folder.mkdir()
        record = b"\n".join(lines[: 1 + int(share * len(lines))]) + b'\n{"event": "episode", "of": ["torn'
        (folder / EVENTS).write_bytes(record)
        page = page_of(folder)
        check(page)
        assert "unfinished" in page.ids and "Not finished" in page.text and "the final test was not played" in page.text
        assert (folder / EVENTS).read_bytes() == record, "the line being written is the writer's"
        if share < 0.1:
            assert "not begun" in page.text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    page = page_of(simulated_run(tmp_path / "run", (GENERAL, HOSTILE), rounds=6, words=HOSTILE))
    check(page)
    shown = HOSTILE.replace("‮", "�").replace("\x1b", "�")
    assert page.text.count(shown) > 20 and "‮" not in page.text and " 49 " not in page.text
    half = simulated_run(tmp_path / "half", (GENERAL,), rounds=2, words="half a pair: \ud800")
    check(page_of(half))


@given(st.text(max_size=60))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_gives_a_whole_page(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        check(page_of(simulated_run(Path(folder) / "run", (GENERAL, f"type {text}"), rounds=2, words=text)))


def test_a_large_run_is_drawn_without_one_node_on_another(tmp_path: Path) -> None:
    folder = simulated_run(tmp_path / "run", (GENERAL, "heat"), rounds=150, finished=False)
    story = read_run(folder)
    nodes = {key: group.state for key, group in story.searches.items()}
    assert sum(len(state.nodes) for state in nodes.values()) > 200
    for state in nodes.values():
        drawn = tree(state)
        places = {(dot.x, dot.y) for dot in drawn.dots}
        assert len(places) == len(drawn.dots) == len(state.nodes)
        assert all(0 < x < drawn.width and 0 < y < drawn.height for x, y in places)
        assert len(drawn.edges) == len(state.nodes) - 1
        across = curve(state)
        assert all(0 <= dot.x <= across.width and 0 <= dot.y <= across.height for dot in across.dots)
        assert sum(dot.best for dot in across.dots) == 1
    page = page_of(folder)
    check(page)
    assert (folder / REPORT).stat().st_size < 3_000_000
    assert "1 of 2 searches are done" in page.text and "9.50" in page.text


def test_the_incumbent_s_line_goes_through_what_was_accepted(tmp_path: Path) -> None:
    state = read_run(simulated_run(tmp_path / "run", (GENERAL,), rounds=40)).searches[GENERAL].state
    drawn = curve(state)
    accepted = [dot for dot in drawn.dots if dot.state in ("accepted", "start")]
    assert len(accepted) > 2
    assert all(f"{dot.x},{dot.y}" in drawn.line for dot in accepted)
    for node in state.nodes:
        bounds = interval_of(node)
        if bounds:
            assert node.mean is not None and bounds[0] < node.mean < bounds[1]


def test_old_runs_without_fingerprints_are_told_without_rates_by_type(real: Path, tmp_path: Path) -> None:
    tmp_path.joinpath("old").mkdir()
    old = [{k: v for k, v in json.loads(line).items() if k != "bank"} for line in (real / EVENTS).open("rb")]
    (tmp_path / "old" / EVENTS).write_text("".join(json.dumps(event) + "\n" for event in old))
    page = page_of(tmp_path / "old")
    check(page)
    assert "does not say which bank an episode was of" in page.text


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "so it is no run; give the folder that masa evolve made"),
        ('{"event": "run"}\nnonsense\n', "line 2 is no event of masa evolve"),
        ('{"event": "verdict", "group": "g"}\n', "line 1 is no event"),
        ('{"event": "evaluation", "round": 1, "node": 3, "first": 0, "rewards": [], "group": "g"}\n', "never proposed"),
        ("[1]\n", "line 1 is no event"),
    ],
)
def test_what_is_no_run_is_said_in_one_sentence(tmp_path: Path, record: str | None, message: str) -> None:
    if record is not None:
        (tmp_path / EVENTS).write_text(record)
    with pytest.raises(TrainingError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / REPORT).exists()


texts = st.text(alphabet="ab \n.", max_size=30)
skills = st.builds(Skill, st.sampled_from(["a", "b", "c", ""]), texts, texts, texts)
groups = st.builds(lambda its: Group("heat", tuple(its)), st.lists(skills, max_size=4))


@given(texts, texts)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_pieces_of_two_texts_make_both(old: str, new: str) -> None:
    found = pieces(old, new)
    assert "".join(piece.text for piece in found if piece.change != "added") == old
    assert "".join(piece.text for piece in found if piece.change != "removed") == new


@given(groups, groups)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_skill_is_the_same_changed_added_or_removed(old: Group, new: Group) -> None:
    found = difference(old, new)
    kinds = Counter(skill.change for skill in found.skills)
    assert found.same + kinds["changed"] + kinds["added"] == len(new.skills)
    assert found.same + kinds["changed"] + kinds["removed"] == len(old.skills)
    again = difference(new, new)
    assert again.skills == () and again.same == len(new.skills) and not again.reordered


def test_a_very_long_skill_is_compared_at_once() -> None:
    old, new = ("a b c " * 20_000, "b c d " * 20_000)
    assert [piece.change for piece in pieces(old, new)] == ["removed", "added"]


def test_the_live_view_draws_and_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    screen = io.StringIO()
    view = LiveView(Console(file=screen, force_terminal=True, width=110, height=24, color_system=None))
    settings = config(tmp_path / "c.yaml", rounds=1, iterations=1, test_tasks=4, budget={"episodes": 500})

    def told(what: object) -> None:
        view.line(f"[bold]{HOSTILE}")

    def played(_: Episode) -> None:
        view.played()

    evolve(settings, tmp_path / "run", model=Reader(), told=told, progress=played, begun=view.begun)
    view._live.refresh()
    view.close()
    view.close()
    shown = screen.getvalue()
    assert "general skills" in shown and "comparison" in shown and "final test: 12 episodes" in shown
    assert re.search(r"episodes \d+, \d+ left", shown) and "[bold]</details>" in shown
    assert "\x1b[31m" not in shown, "what others wrote does not steer the terminal"
    assert shown.rstrip().endswith("\x1b[2K") or "\x1b[?25h" in shown, "the cursor is back"


def test_rows_that_do_not_fit_are_counted_and_those_under_way_come_first() -> None:
    rows = [Row(f"type {n}", "searching" if n in (7, 9) else "waiting", 0, 5) for n in range(12)]
    shown, hidden = fitting(rows, 4)
    assert [row.key for row in shown] == ["type 0", "type 1", "type 7", "type 9"] and hidden == 8
    assert fitting(rows, 12) == (rows, 0)
    assert all(len(cells(row)) == 7 for row in rows)
    used = [Used("episodes", 120, 500), Used("dollars", 0, 0), Used("minutes", 3, 0), Used("tokens", 1e6, 0)]
    assert used_line(used, 60, 80) == "episodes 120, 380 left · tokens 1,000,000 · 0.75 episodes/s · 1 min 20 s"


def test_the_command_writes_the_report_of_any_run(real: Path, tmp_path: Path) -> None:
    (real / REPORT).unlink(missing_ok=True)
    done = CliRunner().invoke(command, ["--report", "-o", str(real)])
    assert done.exit_code == 0 and done.stdout == f"report: {real / REPORT}\nin Markdown: {real / MARKDOWN}\n"
    assert "Final test" in (real / REPORT).read_text("utf-8")
    told = CliRunner().invoke(command, ["--report", "-o", str(real), "--json"])
    assert json.loads(told.stdout) == {"report": str(real / REPORT), "markdown": str(real / MARKDOWN)}
    assert CliRunner().invoke(command, ["-o", str(tmp_path / "x")]).exit_code == 2


def test_a_state_is_what_its_events_add_up_to() -> None:
    backbone = simulated_backbone(1)
    trace = tree_search(
        backbone.start,
        propose=simulated_teacher(backbone),
        evaluate=backbone.evaluate,
        accept=SequentialPaired(most=20),
        iterations=12,
    )
    state = State(trace.events)
    assert tuple(state.nodes) == trace.nodes and state.best == trace.best and tuple(state.events) == trace.events
    with pytest.raises(ValueError, match="not follow 0"):
        State(trace.events[1:])
