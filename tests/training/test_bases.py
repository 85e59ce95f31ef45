"""Base models: chat templates taken apart, tokens as llama.cpp's, and the proof that a folder's tokenizer agrees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from masa.prompt import CHATML, Request
from masa.skills import Group, Skill
from masa_training.bases import GEMMA, Base, open_base, template_pieces
from masa_training.encoding import SHORT_CARD, encode, encode_all, prove_tokenizer
from masa_training.errors import TrainingError
from masa_training.samples import Sample
from tests.tiny_gguf import write_tiny_gguf
from tests.training.tiny_checkpoint import tiny_base

CHATML_SOURCE = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + \
'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
GEMMA_SOURCE = """{{ bos_token }}{% set system = messages[0]['content'] %}{% for message in messages[1:] %}\
{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\n' }}\
{% if loop.first %}{{ system + '\n\n' }}{% endif %}{{ message['content'] + '<end_of_turn>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""


def test_a_chat_template_comes_apart_into_its_fixed_pieces() -> None:
    assert template_pieces(CHATML_SOURCE, ("<|im_start|>", "<|im_end|>"), "x") == CHATML
    controls = ("<bos>", "<start_of_turn>", "<end_of_turn>")
    assert template_pieces(GEMMA_SOURCE, controls, "x") == GEMMA


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ messages[7]['content'] }}", "its chat template cannot be used"),
        ("{{ raise_exception('no system message') }}", r"cannot be used \(no system message\)"),
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", "ends an answer with no special token"),
        ("{% if %}", "its chat template cannot be used"),
    ],
)
def test_a_template_that_does_not_fit_is_refused_in_words(source: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        template_pieces(source, ("<|im_end|>",), "x.gguf")


def test_what_is_no_base_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no-such-model"):
        open_base("no-such-model")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(TrainingError, match=r"broken\.gguf"):
        open_base(str(broken))
    with pytest.raises(TrainingError, match="no readable JSON"):
        open_base(str(tmp_path))
    folder = tiny_base(tmp_path / "base")
    with pytest.raises(TrainingError, match="has no chat template"):
        open_base(str(folder))
    with pytest.raises(TrainingError, match="unknown chat template 'alpaca'"):
        open_base(str(folder), "alpaca")


def sample(**changes: object) -> Sample:
    group = Group(None, (Skill("a", "Look", "Look first. <|im_end|> is text here."),))
    card = {"family": "Tiny", "num_layers": 30, "weaknesses": "repeats itself"}
    return replace(Sample("s", Request(group, card), "plan", "1 keep", "Tiny"), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return open_base(str(tiny_base(tmp_path_factory.mktemp("base"))), "chatml")


def test_a_sample_is_its_prompt_its_target_and_the_stop_token(base: Base) -> None:
    tokenizer = base.tokenizer()
    found = encode(sample(), tokenizer, base.template)
    stop = tokenizer.token_id("<|im_end|>")
    assert tokenizer.detokenize(found.target) == b"1 keep" and found.target[-1] == stop
    assert list(found.prompt).count(stop) == 2, "the spelling inside the skill is text"
    other = encode(sample(request=replace(sample().request, card={"family": "Other"})), tokenizer, base.template)
    assert other.prompt[: other.fork] == found.prompt[: found.fork] and other.prompt != found.prompt
    assert b"Tiny" in tokenizer.detokenize(found.prompt[found.fork :])
    assert b"Tiny" not in tokenizer.detokenize(found.prompt[: found.fork])


def test_a_card_can_be_shortened_or_left_out(base: Base) -> None:
    def reads(card: str) -> str:
        tokenizer = base.tokenizer()
        return tokenizer.detokenize(encode(sample(), tokenizer, base.template, card=card).prompt).decode()

    assert "num_layers" in reads("full") and "weaknesses: repeats itself" in reads("full")
    assert "num_layers" not in reads("short") and "weaknesses: repeats itself" in reads("short")
    assert "num_layers" not in SHORT_CARD and "Reader: unknown" in reads("none")


def test_a_sample_longer_than_the_context_is_an_error_with_its_name(base: Base) -> None:
    longest = len(encode(sample(), base.tokenizer(), base.template))
    assert len(encode_all([sample()], base, longest)) == 1
    with pytest.raises(TrainingError, match=rf"sample long has {longest} tokens, the context is {longest - 1}"):
        encode_all([sample(id="long")], base, longest - 1)


@pytest.mark.model
def test_a_folder_must_tokenize_as_llama_cpp_does(smollm2: Path, tmp_path: Path, base: Base) -> None:
    import gguf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    reference = open_base(str(write_tiny_gguf(smollm2, tmp_path / "tiny.gguf")))
    with pytest.raises(TrainingError, match="in sample s"):
        prove_tokenizer([sample()], base, reference.tokenizer())
    fields = gguf.GGUFReader(tmp_path / "tiny.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    same = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    same.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    same.decoder = decoders.ByteLevel()
    folder = tiny_base(tmp_path / "folder")
    PreTrainedTokenizerFast(
        tokenizer_object=same, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    ).save_pretrained(folder)
    agreed = open_base(str(folder), "chatml")
    assert (
        prove_tokenizer([sample(), sample(target="1 shorten steps\n+ warn loop")], agreed, reference.tokenizer()) > 10
    )
