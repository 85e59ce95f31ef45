"""Model cards: strict files, stable fingerprints, layers that never invent anything."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from masa.backbones import resolve_backbone
from masa.cards import (
    FIELDS,
    ModelCard,
    dump_card,
    explain,
    find_shipped,
    load_card,
    load_cards,
    loads_card,
    merge,
    shipped_cards,
)
from masa.errors import CardError

TEXT = """\
# a comment
family: "Qwen3"
variant: 4B
parameter_count: '4B'
release_date: 2025-04
num_layers: 36
multilingual: true
weaknesses: null
sources:
  num_layers: https://example.org/card
"""

texts = st.text(st.characters(codec="utf-8"), max_size=30)
VALUES = {str: texts, int: st.integers(1, 2**63), bool: st.booleans()}
cards = st.builds(
    ModelCard,
    **{name: st.none() | VALUES[kind] for name, kind in FIELDS.items()},
    sources=st.dictionaries(st.sampled_from(list(FIELDS)), st.just("https://example.org/a?b=c#d"), max_size=3),
)


def test_a_card_file_is_read_as_it_is_written() -> None:
    card = loads_card(TEXT)
    assert card.fields() == {
        "family": "Qwen3",
        "variant": "4B",
        "parameter_count": "4B",
        "release_date": "2025-04",
        "num_layers": 36,
        "multilingual": True,
    }
    assert card.sources == {"num_layers": "https://example.org/card"}
    assert card.weaknesses is None
    assert card.name == "Qwen3-4B"


def test_json_is_a_card_too() -> None:
    assert loads_card('{"family": "Qwen3", "num_layers": 36, "multilingual": null}').fields() == {
        "family": "Qwen3",
        "num_layers": 36,
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [("3.10", "3.10"), ("2025-04-29", "2025-04-29"), ("1_000", "1_000"), ("12:30", "12:30"), ("007", "007")],
)
def test_a_text_keeps_its_spelling_even_if_yaml_would_see_a_number(text: str, value: str) -> None:
    assert loads_card(f"variant: {text}").variant == value
    assert loads_card(f'variant: "{text}"').variant == value


@pytest.mark.parametrize("empty", ["null", "~", "", '""', "'  '"])
def test_unknown_has_many_spellings_and_one_meaning(empty: str) -> None:
    assert loads_card(f"family: Q\nweaknesses: {empty}") == loads_card("family: Q")


def test_long_texts_become_one_printable_line() -> None:
    card = loads_card('strengths: |\n  ## When:\n  \tmath\n\nweaknesses: "a\\u200bb\\e[31m c\\u2028d"')
    assert card.strengths == "## When: math"
    assert card.weaknesses == "ab[31m c d"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("family: Q\nnum_layer: 3", r"line 2: unknown key 'num_layer'; did you mean 'num_layers'\?"),
        ("Context-Length: 3", r"line 1: unknown key 'Context-Length'; did you mean 'context_window'\?"),
        ("zzz: 3", "unknown key 'zzz'; known are: family, variant,"),
        ("family: A\nvariant: B\nfamily: A", "line 3: the key 'family' is already on line 1"),
        ('num_layers: "36"', "num_layers must be a whole number or null, found the quoted text '36'"),
        ("num_layers: 3.5", "num_layers must be a whole number"),
        ("num_layers: true", "num_layers must be a whole number"),
        ("num_layers: 0x10", "num_layers must be a whole number"),
        ("num_layers: 0", "num_layers .* at least 1"),
        ("num_layers: -3", "num_layers must be a whole number"),
        ("num_layers: [3]", "num_layers must be a whole number or null, found a list"),
        ('multilingual: "yes"', "multilingual must be true, false or null"),
        ("multilingual: 1", "multilingual must be true, false or null"),
        ("family: yes", "family must be a text or null, found 'yes'"),
        ("family: {a: b}", "family must be a text or null, found nested keys"),
        ("family: !!python/object/apply:os.getcwd []", "family must be a text"),
        ("family: !!python/name:os.system x", "family must be a text"),
        ("sources: {famly: x}", "sources has the unknown key 'famly'; did you mean 'family'"),
        ("sources: [x]", "sources must be keys with values, found a list"),
        ("- family", "must be keys with values, found a list"),
        ("just words", "must be keys with values, found 'just words'"),
        ("", "empty"),
        ("# only a comment", "empty"),
        ("a: b: c", r"line 1: not valid YAML \(a colon in a value"),
        ("variant: 1\nfamily: 'x\n\n", r"line 2: not valid YAML \(a quote is opened and not closed"),
        ("family: *x", "line 1: not valid YAML"),
        ("a: 1\n---\nb: 2", "line 2: not valid YAML"),
        ("family: a\x00b", "not valid YAML"),
        ("family: \ud800", "no text"),
        ("[" * 25 + "]" * 25, "nested too deeply"),
        ("[" * 100_000, "YAML|nested"),  # PyYAML may refuse before us, in words of its own
        ("- " * 100_000, "YAML|nested"),
        ("family: " + "x" * 2_000_000, "too many for a model card"),
    ],
)
def test_a_bad_card_costs_one_sentence_with_file_and_place(text: str, message: str) -> None:
    with pytest.raises(CardError, match=message) as caught:
        loads_card(text, "my.yaml")
    assert str(caught.value).startswith("my.yaml")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_a_card_error(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="no such file"):
        load_card(tmp_path / "missing.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"family: Qw\xe9n")
    with pytest.raises(CardError, match=r"latin\.yaml: not UTF-8"):
        load_card(latin)
    marked = tmp_path / "bom.yaml"
    marked.write_bytes(b"\xef\xbb\xbffamily: Q\r\nvariant: 4B\r\n")
    assert load_card(marked).name == "Q-4B"


@pytest.mark.parametrize(
    "wrong",
    [{"num_layers": "36"}, {"num_layers": True}, {"num_layers": -1}, {"family": 3}, {"multilingual": 1}],
)
def test_a_card_made_in_python_is_checked_too(wrong: dict[str, object]) -> None:
    with pytest.raises(CardError, match=next(iter(wrong))):
        ModelCard(**wrong)  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None)
@given(cards)
def test_every_card_survives_its_file(card: ModelCard) -> None:
    again = loads_card(dump_card(card))
    assert again == card
    assert again.sources == card.sources
    assert dump_card(again) == dump_card(card)


def test_a_dumped_card_lists_what_is_unknown_for_its_reader_to_fill_in() -> None:
    assert list(yaml.safe_load(dump_card(ModelCard(family="Q")))) == list(FIELDS)


@settings(max_examples=50, deadline=None)
@given(cards, st.randoms(use_true_random=False), st.sampled_from(['"', "'", None]))
def test_the_fingerprint_ignores_order_quotes_nulls_and_sources(
    card: ModelCard, random: object, quote: str | None
) -> None:
    items = list(card.fields().items())
    random.shuffle(items)  # type: ignore[attr-defined]

    class Quoted(str):
        __slots__ = ()

    class Dumper(yaml.SafeDumper):
        pass

    Dumper.add_representer(Quoted, lambda d, v: d.represent_scalar("tag:yaml.org,2002:str", str(v), style=quote))
    content = {key: Quoted(value) if isinstance(value, str) else value for key, value in items}
    text = yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=40)
    if content:
        assert loads_card(text).fingerprint == card.fingerprint
    assert replace(card, sources={}, origins={"family": "x"}, note="y").fingerprint == card.fingerprint


@settings(max_examples=50, deadline=None)
@given(cards, cards)
def test_different_values_have_different_fingerprints(one: ModelCard, other: ModelCard) -> None:
    assert (one == other) == (one.fingerprint == other.fingerprint)


def test_the_fingerprint_is_the_same_in_every_process_and_version() -> None:
    # printf '{"family":"Qwen3","multilingual":true,"num_layers":36,…}' | sha256sum | cut -c1-16
    assert loads_card(TEXT).fingerprint == "d26563a7f583be74"


def test_quotes_do_not_change_the_fingerprint_of_what_looks_like_a_number() -> None:
    assert loads_card("variant: 8").fingerprint == loads_card('variant: "8"').fingerprint


@given(cards)
@settings(max_examples=30, deadline=None)
def test_the_prompt_sees_the_known_fields_in_canonical_order(card: ModelCard) -> None:
    names = list(card.fields())
    assert names == [name for name in FIELDS if name in names]
    assert None not in card.fields().values()


@pytest.mark.parametrize(
    ("card", "name"),
    [
        (ModelCard(family="Qwen3", variant="4B"), "Qwen3-4B"),
        (ModelCard(family="Llama 3.2", variant="3B Instruct"), "Llama-3.2-3B-Instruct"),
        (ModelCard(family="Phi", parameter_count="3.8B"), "Phi-3.8B"),
        (ModelCard(variant="7B"), "7B"),
        (ModelCard(num_layers=3), "unnamed-model"),
    ],
)
def test_a_card_is_named_after_family_and_variant(card: ModelCard, name: str) -> None:
    assert card.name == name


def test_user_wins_over_detected_over_shipped_field_by_field() -> None:
    shipped = ModelCard(
        family="S", variant="S", num_layers=1, strengths="s", sources={"strengths": "page", "num_layers": "p"}
    )
    detected = replace(ModelCard(variant="D", num_layers=2), origins={"variant": "gguf", "num_layers": "gguf"})
    card = merge(detected, shipped, ModelCard(variant="U"))
    assert card.fields() == {"family": "S", "variant": "U", "num_layers": 2, "strengths": "s"}
    assert card.origins == {
        "family": "shipped",
        "variant": "user",
        "num_layers": "gguf",
        "strengths": "shipped",
    }
    assert card.sources == {"strengths": "page"}


@given(cards, cards, cards)
@settings(max_examples=30, deadline=None)
def test_merging_never_loses_or_invents_a_value(user: ModelCard, detected: ModelCard, shipped: ModelCard) -> None:
    card = merge(detected, shipped, user)
    for row in explain(card):
        given_values = [getattr(layer, row.field) for layer in (user, detected, shipped)]
        known = [value for value in given_values if value is not None]
        assert row.value == (known[0] if known else None)
        assert (row.origin is None) == (row.value is None)


def test_merging_nothing_is_an_empty_card() -> None:
    assert merge() == ModelCard()


def test_explain_names_origin_and_page_of_every_field() -> None:
    rows = {row.field: row for row in explain(merge(user=loads_card(TEXT)))}
    assert list(rows) == list(FIELDS)
    assert rows["num_layers"] == ("num_layers", 36, "user", "https://example.org/card")
    assert rows["vocab_size"] == ("vocab_size", None, None, None)


def test_shipped_cards_are_found_by_name_and_say_where_they_are_from() -> None:
    shipped = shipped_cards()
    assert shipped
    assert all(name == card.name for name, card in shipped.items())
    for name, card in shipped.items():
        for spelling in (
            name,
            name.lower(),
            f"some-org/{name.upper()}",
            name.replace("-", " "),
            name.replace("-", "_"),
        ):
            assert find_shipped(spelling) == card
        assert {row.origin for row in explain(card) if row.value is not None} == {"shipped"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of cards as masa ships them."""
    for family, variant in [("Qwen3", "4B"), ("Qwen3", "14B"), ("Llama-3.2", "3B-Instruct")]:
        (tmp_path / f"{family}-{variant}.yaml").write_text(f"family: {family}\nvariant: {variant}\n")
    return tmp_path


@pytest.mark.parametrize("name", ["qwen3-4b", "Qwen/Qwen3-4B", "qwen3:4b", "QWEN3 4B", "Qwen3_4b"])
def test_case_and_punctuation_do_not_matter_in_a_shipped_name(folder: Path, name: str) -> None:
    assert find_shipped(name, load_cards(folder)).name == "Qwen3-4B"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Qwen-34B", "did you mean Qwen3-4B"),  # the same letters and digits, another model
        ("Qwen3-5B", "did you mean Qwen3-4B"),
        ("lama3.2-3b-instruct", "did you mean Llama-3.2-3B-Instruct"),
        ("something else", "one of the 3 shipped cards"),
    ],
)
def test_a_name_that_is_not_shipped_is_never_guessed_at(folder: Path, name: str, hint: str) -> None:
    with pytest.raises(CardError, match=f"^{name}: .*{hint}"):
        find_shipped(name, load_cards(folder))


def test_two_shipped_cards_of_one_name_are_an_error(folder: Path) -> None:
    (folder / "zz.yaml").write_text("family: Qwen3\nvariant: 4B\n")
    with pytest.raises(CardError, match=r"Qwen3-4B"):
        load_cards(folder)


def test_a_card_file_is_a_backbone_and_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "qwen3.yaml"
    path.write_text("family: Qwen3\nvariant: 4B\n")
    card = resolve_backbone(str(path))
    assert card.fields() == {"family": "Qwen3", "variant": "4B"}
    assert {row.origin for row in explain(card) if row.origin} == {"user"}
    assert resolve_backbone(path, user=ModelCard(num_layers=5, variant="X")).fields() == {
        "family": "Qwen3",
        "variant": "X",
        "num_layers": 5,
    }


def test_a_shipped_name_is_a_backbone_that_the_user_may_correct() -> None:
    name = next(iter(shipped_cards()))
    assert resolve_backbone(name.lower()) == shipped_cards()[name]
    corrected = resolve_backbone(name, user=ModelCard(context_window=2048))
    assert corrected.context_window == 2048
    assert corrected.origins["context_window"] == "user"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "empty"),
        ("missing.gguf", r"missing\.gguf: no such file or folder"),
        ("./folder/thing", "no such file or folder"),
        ("card.yaml", "no such file or folder"),
        ("a\0b.gguf", "not a usable path"),
        ("x" * 5000, "not a usable path|neither a file"),
        ("no such card", r"neither a file nor a shipped model card.*masa card --list"),
        ("localhost:11434", r"did you mean http://localhost:11434#MODEL\?"),
        ("192.168.0.2:8080/v1#m", r"did you mean http://192.168.0.2:8080/v1#m\?"),
        ("my-own:latest", r"http://localhost:11434#my-own:latest\?"),
    ],
)
def test_what_is_no_backbone_gets_one_sentence(
    spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CardError, match=message):
        resolve_backbone(spec)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(CardError, match=r"weights\.bin"):
        resolve_backbone(path)


def test_a_model_name_without_a_server_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="goes with the address of a server"):
        resolve_backbone("Qwen3-4B", model="qwen3:4b")


def test_a_card_that_makes_another_model_of_the_one_in_hand_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert resolve_backbone("Qwen3-4B", user=load_card("examples/card.yaml")).name == "Qwen3-4B"
    same = ModelCard(family="qwen-3", parameter_count="4.1B", num_layers=36, weaknesses="skips steps")
    assert resolve_backbone("Qwen3-4B", user=same).weaknesses == "skips steps" and caplog.text == ""
    other = ModelCard(family="Qwen2.5", variant="1.5B", num_layers=28, context_window=8192, weaknesses="skips steps")
    assert resolve_backbone("Qwen3-4B", user=other).name == "Qwen2.5-1.5B", "the user's values win"
    assert "family Qwen2.5 and variant 1.5B and num_layers 28" in caplog.text and "family Qwen3" in caplog.text
    assert "context_window" not in caplog.text


def test_the_published_cards_load_as_they_are(shared_data: Path) -> None:
    paths = sorted((shared_data / "masa_banks" / "model_cards").glob("*.yaml"))
    loaded = {card.name: card for card in map(load_card, paths)}
    assert set(loaded) == {"Qwen3-4B", "Qwen3-8B", "Qwen3-14B", "Qwen3-32B"}
    for path in paths:
        assert load_card(path).fields() == yaml.safe_load(path.read_text())


def test_importing_cards_loads_nothing_heavy_and_no_network() -> None:
    code = (
        "import sys, masa.cards, masa.detect, masa.huggingface_folder, masa.model_names; "
        "print({'yaml', 'numpy', 'urllib.request', 'http.client', 'ssl', 'gguf'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
