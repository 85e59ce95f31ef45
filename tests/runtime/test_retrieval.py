"""Selection: the right number, the right order, nothing twice, and no socket unless a server was asked for."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa.embedders import LlamaEmbedder, ServerEmbedder
from masa.errors import BackendError, MasaError
from masa.formats import load_bank
from masa.formats.skill_md import load_skill_folder
from masa.retrieval import METHODS, Selection, render, select
from masa.skills import Skill, SkillBank


def skill(name: str, text: str = "", when: str = "") -> Skill:
    return Skill(name, name.title(), text or f"Do {name}.", when)


BANK = SkillBank(
    general=(
        skill("explore", "Open every closed cabinet and drawer before you leave a room."),
        skill("verify", "Check that the object is the one the task names."),
        skill("loop", "Stop repeating an action that had no effect."),
    ),
    task_specific={
        "heat_and_place": (
            skill("microwave", "Heat the egg or mug with the microwave."),
            skill("carry", "Carry what is hot to the table."),
        ),
        "clean_and_place": (
            skill("sink", "Rinse the object in the sinkbasin until it is clean."),
            skill("dry", "Put the clean object down."),
        ),
    },
)


class WordEmbedder:
    """Counts a few words: enough for a cosine that means something."""

    words = ("egg", "microwave", "clean", "sinkbasin", "cabinet", "repeating")

    def __init__(self) -> None:
        self.seen: list[str] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        self.seen += texts
        return np.array([[text.lower().count(word) for word in self.words] for text in texts], dtype=np.float32)


# -- select ----------------------------------------------------------------------------------------------


def test_by_task_type_takes_the_first_in_bank_order_without_a_query() -> None:
    got = select(BANK, task_type="clean_and_place", general=2, specific=1)
    expected = BANK.task_specific["clean_and_place"][:1]
    assert got == Selection(BANK.general[:2], expected, "clean_and_place", picked=False)


def test_without_task_type_or_query_only_general_skills_are_selected() -> None:
    assert select(BANK) == Selection(BANK.general, (), None)
    one = SkillBank((), {"only": (skill("a"),)})
    assert select(one) == Selection((), (skill("a"),), "only", picked=True)
    assert select(SkillBank((), {})) == Selection((), (), None)


@pytest.mark.parametrize("method", METHODS)
def test_the_query_picks_the_task_type_and_the_selection_says_so(method: Any) -> None:
    got = select(BANK, "rinse in the sinkbasin, clean it", method=method, embedder=WordEmbedder())
    assert (got.task_type, got.picked) == ("clean_and_place", True)
    got = select(BANK, "an egg", task_type="clean_and_place", method=method, embedder=WordEmbedder())
    assert (got.task_type, got.picked) == ("clean_and_place", False)


def test_a_query_that_matches_nothing_picks_no_task_type() -> None:
    for query in ("zzz qqq", "the of and", "?!"):
        for got in (select(BANK, query, method="bm25"), select(BANK, query)):
            assert got == Selection(BANK.general, (), None, method="bm25")


def test_the_method_follows_from_what_is_given_as_in_the_command() -> None:
    assert select(BANK).method == "task-type"
    assert select(BANK, task_type="heat_and_place").method == "task-type"
    query = "an egg near the cabinet"
    by_words = select(BANK, query, task_type="heat_and_place")
    assert by_words == select(BANK, query, task_type="heat_and_place", method="bm25")
    assert by_words.method == "bm25" and select(BANK, "  ").method == "task-type"
    assert select(BANK, query, embedder=WordEmbedder()).method == "embedding"


@pytest.mark.parametrize("method", ["bm25", "embedding"])
def test_the_best_match_comes_first_and_ties_keep_bank_order(method: Any) -> None:
    got = select(BANK, "an egg near the cabinet", method=method, embedder=WordEmbedder())
    assert [s.skill_id for s in got.general] == ["explore", "verify", "loop"]
    assert [s.skill_id for s in got.specific] == ["microwave", "carry"]
    got = select(BANK, "repeating", task_type="heat_and_place", method=method, embedder=WordEmbedder())
    assert [s.skill_id for s in got.general] == ["loop", "explore", "verify"]


def test_a_word_that_half_of_the_skills_share_still_ranks_them_first() -> None:
    # The classic Okapi weight of such a word is zero or negative.
    bank = SkillBank((skill("a", "nothing here"), skill("b", "take the mug"), skill("c", "drop the mug")), {})
    assert [s.skill_id for s in select(bank, "mug", method="bm25").general] == ["b", "c", "a"]


def test_bm25_equals_its_formula() -> None:
    from masa.retrieval import _bm25

    texts = ["mug mug sink", "mug table", "sink egg egg egg"]
    words = [text.split() for text in texts]
    average = sum(map(len, words)) / 3
    expected = []
    for document in words:
        score = 0.0
        for word in ("mug", "egg"):
            n = sum(word in other for other in words)
            tf = document.count(word)
            idf = math.log(1 + (3 - n + 0.5) / (n + 0.5))
            score += idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * len(document) / average))
        expected.append(score)
    assert _bm25("Mug or egg?", texts) == pytest.approx(expected, rel=1e-5)


def test_a_skill_folder_is_found_by_its_description(tmp_path: Path) -> None:
    for name, description in (("alpha", "Fills forms."), ("beta", "Transcribes audio recordings.")):
        (tmp_path / name).mkdir()
        text = f"---\nname: {name}\ndescription: {description}\n---\nDo it.\n"
        (tmp_path / name / "SKILL.md").write_text(text)
    got = select(load_skill_folder(tmp_path), "transcribes this recording", method="bm25")
    assert got.task_type == "beta"


def test_what_cannot_be_selected_is_one_clear_sentence() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"method": "bm25"}, "needs a query"),
        ({"method": "embedding", "query": "x"}, "needs an embedder"),
        ({"method": "random"}, "no selection method 'random'"),
        ({"method": "bm52", "query": "x"}, "did you mean .bm25"),
        ({"task_type": "heat_and_plate"}, "did you mean .heat_and_place"),
        ({"task_type": "zzz"}, "it has: heat_and_place, clean_and_place"),
        ({"query": ["x"]}, "must be text, not a list"),
        ({"general": -1}, "at least 0"),
    ]
    for arguments, message in cases:
        with pytest.raises(MasaError, match=message):
            select(BANK, **arguments)
    with pytest.raises(MasaError, match="load_bank"):
        select("bank.json")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((2, 3)), "one row per text"),
        (np.ones(5), "one row per text"),
        (np.full((6, 2), np.nan), "not finite"),
    ],
)
def test_vectors_that_make_no_sense_are_refused(vectors: Any, message: str) -> None:
    class Broken:
        def embed(self, texts: Sequence[str]) -> Any:
            return vectors

    with pytest.raises(BackendError, match=message):
        select(BANK, "x", task_type="heat_and_place", method="embedding", embedder=Broken())


def test_texts_without_direction_score_nothing_instead_of_failing() -> None:
    got = select(BANK, "zzz", task_type="heat_and_place", method="embedding", embedder=WordEmbedder())
    assert (got.general, got.specific) == (BANK.general, BANK.task_specific["heat_and_place"])


WORDS = st.sampled_from(["egg", "mug", "clean", "sinkbasin", "the", "of", "cabinet", "É", "技能", "x", "?", "\ud800"])
TEXT = st.lists(WORDS, max_size=6).map(" ".join)


@st.composite
def banks(draw: st.DrawFn) -> SkillBank:
    numbers = iter(range(100))
    skills = st.lists(TEXT, max_size=6).map(
        lambda texts: tuple(Skill(str(next(numbers)), text, text, draw(TEXT)) for text in texts)
    )
    names = draw(st.lists(st.sampled_from(["a_b", "clean", "egg"]), unique=True))
    return SkillBank(draw(skills), {name: draw(skills) for name in names})


@given(banks(), TEXT, st.integers(0, 7), st.integers(0, 7), st.sampled_from(METHODS))
@settings(max_examples=150, deadline=None)
def test_every_selection_is_a_deterministic_part_of_the_bank(
    bank: SkillBank, query: str, general: int, specific: int, method: Any
) -> None:
    def run() -> Selection:
        return select(bank, query or "egg", general=general, specific=specific, method=method, embedder=WordEmbedder())

    got = run()
    assert got == run()
    available = () if got.task_type is None else bank.task_specific[got.task_type]
    assert len(got.general) == min(general, len(bank.general))
    assert len(got.specific) == min(specific, len(available))
    for chosen, source in ((got.general, bank.general), (got.specific, available)):
        ids = [s.skill_id for s in chosen]
        assert len(set(ids)) == len(ids)
        assert set(ids) <= {s.skill_id for s in source}
        if method == "task-type":
            assert chosen == source[: len(chosen)]
    assert got.picked == (got.task_type is not None)


def test_selecting_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    for method in METHODS:
        select(BANK, "egg", method=method, embedder=WordEmbedder())


def test_importing_the_module_loads_only_the_standard_library() -> None:
    code = (
        "import sys, masa.retrieval, masa.embedders, masa.variants, masa.formats.skill_md\n"
        "print([m for m in ('numpy', 'bm25s', 'yaml', 'markdown_it', 'llama_cpp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_published_banks_are_searched_sensibly(shared_data: Path) -> None:
    bank = load_bank(shared_data / "skillrl" / "alfworld.json")
    got = select(bank, "heat some egg with the microwave and put it in the garbage can", method="bm25")
    assert got.task_type is not None
    assert "heat" in got.task_type
    assert (len(got.general), len(got.specific)) == (6, min(5, len(bank.task_specific[got.task_type])))


# -- render ----------------------------------------------------------------------------------------------


def test_a_selection_is_rendered_as_markdown() -> None:
    selection = Selection((skill("a", "Do a.\n\n- x", "it rains"),), (skill("b"),), "clean")
    mistakes = [
        {"mistake_id": "m", "description": "Looping", "why_it_happens": "No memory.", "how_to_avoid": "Stop."},
        {"mistake_id": "empty"},
    ]
    assert render(selection, common_mistakes=mistakes) == (
        "## General skills\n\n### A\nWhen: it rains\nDo a.\n\n- x\n\n"
        "## Skills for clean\n\n### B\nDo b.\n\n"
        "## Common mistakes\n\n- Looping Why: No memory. Instead: Stop.\n"
    )
    assert render(Selection((), (), None)) == ""


# -- the embedding server --------------------------------------------------------------------------------

Reply = Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes]]


class Server(ThreadingHTTPServer):
    reply: Reply
    requests: list[tuple[str, str | None, dict[str, Any]]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        status, headers, content = self.server.reply(body)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def embeddings(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    vectors = WordEmbedder().embed(body["input"]).tolist()
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    return 200, {"Content-Type": "application/json"}, json.dumps({"data": data[::-1]}).encode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server(("127.0.0.1", 0), Handler)
    made.reply, made.requests = embeddings, []
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def test_a_server_embeds_in_batches_with_the_key_and_each_text_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-1\n")
    embedder = ServerEmbedder(server.url, "mini", api_key_env="TEST_KEY", batch=3)
    got = select(BANK, "an egg in the microwave", method="embedding", embedder=embedder)
    assert got == select(BANK, "an egg in the microwave", method="embedding", embedder=WordEmbedder())

    assert {path for path, *_ in server.requests} == {"/v1/embeddings"}
    assert {key for _, key, _ in server.requests} == {"Bearer sk-1"}
    assert max(len(body["input"]) for *_, body in server.requests) == 3
    assert {body["model"] for *_, body in server.requests} == {"mini"}
    sent = [text for *_, body in server.requests for text in body["input"]]
    assert len(sent) == len(set(sent))

    count = len(server.requests)
    select(BANK, "an egg in the microwave", method="embedding", embedder=embedder)
    assert len(server.requests) == count

    again = embedder.embed(["egg", "mug", "egg"])
    assert again.dtype == np.float32
    assert again.shape == (3, 6)
    assert (again[0] == again[2]).all()
    assert embedder.embed([]).shape[0] == 0


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("", "/v1/embeddings"),
        ("/", "/v1/embeddings"),
        ("/v1", "/v1/embeddings"),
        ("/v1/embeddings", "/v1/embeddings"),
        ("/openai/", "/openai/v1/embeddings"),
    ],
)
def test_the_address_may_have_any_usual_form(server: Server, address: str, path: str) -> None:
    ServerEmbedder(server.url + address, "mini").embed(["egg"])
    assert [(p, key) for p, key, _ in server.requests] == [(path, None)]


def answer(status: int, content: Any, **headers: str) -> Reply:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda body: (status, headers, raw)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (answer(401, {"error": {"message": "no such key"}}), "HTTP 401 .*no such key"),
        (answer(404, b""), "HTTP 404 .*no explanation"),
        (answer(302, b"", Location="http://127.0.0.1:1/steal"), "HTTP 302"),
        (answer(200, b"<html>"), "no embeddings for 2 texts"),
        (answer(200, {"data": [{"index": 0, "embedding": [1.0]}]}), "no embeddings for 2 texts"),
        (answer(200, {"data": [{"embedding": "AAAA"}, {"embedding": "AAAA"}]}), "no embeddings"),
        (answer(200, {"data": [{"embedding": []}, {"embedding": []}]}), "no vectors"),
        (answer(200, {"data": [{"embedding": [1]}, {"embedding": [1, 2]}]}), "different lengths"),
        (answer(200, b'{"da', **{"Content-Length": "99"}), "no embeddings for 2 texts"),
    ],
)
def test_a_server_that_fails_is_one_clear_sentence(server: Server, reply: Reply, message: str) -> None:
    server.reply = reply
    with pytest.raises(BackendError, match=message) as caught:
        ServerEmbedder(server.url, "mini", timeout=5).embed(["a", "b"])
    assert "\n" not in str(caught.value)


def test_no_proxy_sees_the_texts_for_a_server_on_this_machine(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Server(("127.0.0.1", 0), Handler)
    proxy.reply, proxy.requests = answer(503, b"the proxy"), []
    threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.setenv("TEST_KEY", "sk-1")
    ServerEmbedder(server.url, "mini", api_key_env="TEST_KEY").embed(["egg"])
    assert len(server.requests) == 1 and proxy.requests == []
    proxy.shutdown()
    proxy.server_close()


def test_a_server_that_is_slow_absent_or_without_its_key_is_one_clear_sentence(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = threading.Event()
    server.reply = lambda body: (hold.wait(5), embeddings(body))[1]
    with pytest.raises(BackendError, match="no answer"):
        ServerEmbedder(server.url, "mini", timeout=0.1).embed(["a"])
    hold.set()
    monkeypatch.delenv("TEST_KEY", raising=False)
    with pytest.raises(BackendError, match="TEST_KEY is not set"):
        ServerEmbedder(server.url, "mini", api_key_env="TEST_KEY").embed(["a"])
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"

        def babble() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(BackendError, match="no answer"):
            ServerEmbedder(url, "mini", timeout=5).embed(["a"])
        thread.join()
    with pytest.raises(BackendError, match="no answer"):
        ServerEmbedder(url, "mini").embed(["a"])
    for url in ("localhost:8080", "file:///etc/passwd", ""):
        with pytest.raises(BackendError, match="no server address"):
            ServerEmbedder(url, "mini")


# -- a GGUF model ----------------------------------------------------------------------------------------


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    with pytest.raises(BackendError, match="no such file"):
        LlamaEmbedder(tmp_path / "none.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(BackendError, match="cannot load it"):
        LlamaEmbedder(tmp_path / "bad.gguf")


@pytest.mark.model
def test_a_language_model_embeds_by_the_mean_over_its_tokens(smollm2: Path, caplog: pytest.LogCaptureFixture) -> None:
    embedder = LlamaEmbedder(smollm2, context=64, threads=1)
    texts = ["Heat the egg.", "Heat an egg.", "Heat the egg.", "A history of Portuguese grammar"]
    vectors = embedder.embed(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, 576)
    assert (vectors[0] == vectors[2]).all()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[3]

    assert embedder.embed(["word " * 500, "\ud800"]).shape == (2, 576)
    assert "is cut to 64" in caplog.text
    embedder.close()
    embedder.close()
    with pytest.raises(BackendError, match="closed"):
        embedder.embed(["x"])
