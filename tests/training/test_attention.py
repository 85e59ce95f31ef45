"""A row of trees gives every sample the logits it would have alone, and gradients too."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from masa_training.distill import model as attention
from masa_training.distill.packing import Branch, Tree, lay_out
from masa_training.distill.trainer import inputs_of, row_loss

from .tiny import tiny_model

VOCABULARY = 97


def tokens(count: int, seed: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(VOCABULARY) for _ in range(count))


TREES = (
    Tree(tokens(40, 1), (Branch("a", tokens(12, 2), 9), Branch("b", tokens(5, 3), 1))),
    Tree((), (Branch("c", tokens(9, 4), 4),)),
    Tree(tokens(2, 5), tuple(Branch(f"d{n}", tokens(3 + n, 6 + n), 1 + n) for n in range(3))),
)


def gemma(seed: int = 0) -> torch.nn.Module:
    """Two layers, one of which sees 8 positions only."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(seed)
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    )
    return Gemma3ForCausalLM(config)


@pytest.fixture(params=["products", "blocks", "kernel"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All ways to compute branches: the CPU's for short and for long ones, and the GPU's."""
    if request.param == "kernel":
        monkeypatch.setattr(attention, "_way", lambda device, longest: attention._branches_by_kernel)
    if request.param == "blocks":
        # Several blocks even here, the last of them shorter.
        monkeypatch.setattr(attention, "_BLOCK", 7)
        monkeypatch.setattr(attention, "_way", lambda device, longest: attention._branches_by_blocks)
    return str(request.param)


def test_a_cpu_computes_long_branches_in_blocks() -> None:
    assert attention._way("cpu", attention._BLOCK) is attention._branches_by_products
    assert attention._way("cpu", attention._BLOCK + 1) is attention._branches_by_blocks
    assert attention._way("cuda", 10_000) is attention._branches_by_kernel


@pytest.mark.parametrize("make", [lambda: tiny_model(VOCABULARY), gemma], ids=["llama", "gemma"])
def test_every_sample_of_a_row_has_the_logits_it_has_alone(make: Callable[[], torch.nn.Module], method: str) -> None:
    torch.set_num_threads(1)
    attention.register()
    model = make().eval()
    row = lay_out(TREES)
    alone = []
    model.set_attn_implementation("sdpa")  # type: ignore[operator]
    with torch.inference_mode():
        for tree in TREES:
            for branch in tree.branches:
                sequence = torch.tensor([(*tree.prefix, *branch.tokens)])
                start = len(tree.prefix) + branch.start
                alone.append(model(input_ids=sequence).logits[0, start - 1 : sequence.shape[1] - 1])
        model.set_attn_implementation(attention.NAME)  # type: ignore[operator]
        together = model(**inputs_of(row)).logits[0]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    assert not torch.allclose(together, torch.cat(alone).roll(1, 0), atol=1e-2), "the comparison can fail"


def test_gradients_of_a_row_are_those_of_its_samples(method: str) -> None:
    torch.set_num_threads(1)
    attention.register()
    model = tiny_model(VOCABULARY)
    row = lay_out(TREES)

    def gradient() -> torch.Tensor:
        return torch.cat([parameter.grad.flatten().clone() for parameter in model.parameters()])

    model.set_attn_implementation("sdpa")
    for tree in TREES:
        for branch in tree.branches:
            whole = Branch(branch.id, (*tree.prefix, *branch.tokens), len(tree.prefix) + branch.start)
            alone = lay_out([Tree((), (whole,))])
            inputs = {key: value for key, value in inputs_of(alone).items() if key != "layout"}
            row_loss(model(**inputs).logits[0], alone, beta=1.0).nll.backward()
    expected = gradient()
    model.zero_grad()
    model.set_attn_implementation(attention.NAME)
    row_loss(model(**inputs_of(row)).logits[0], row, beta=1.0).nll.backward()
    assert torch.allclose(gradient(), expected, atol=1e-4)


def test_the_loss_counts_targets_only_and_comparisons_by_their_means() -> None:
    row = lay_out([Tree((1, 2), (Branch("a", (3, 4, 5), 1), Branch("a", (6, 4, 5), 1, worse=True)))])
    logits = torch.zeros(4, 10)
    logits[0, 4] = logits[1, 5] = 5.0
    loss = row_loss(logits, row, beta=2.0)
    good = -torch.log_softmax(logits[0], 0)[4]
    bad = torch.log(torch.tensor(10.0))
    assert loss.tokens == 2 and loss.comparisons == 1
    assert torch.isclose(loss.nll, 2 * good)
    assert torch.isclose(loss.comparison, -torch.nn.functional.logsigmoid(2.0 * (bad - good)))


def test_the_constrained_loss_is_taken_among_the_tokens_that_decoding_would_have_admitted() -> None:
    admitted = ((4, 7), (5,), (2, 5, 8))
    row = lay_out([Tree((1, 2), (Branch("a", (3, 4, 5, 8), 1, admitted=admitted),))])
    logits = torch.randn(3, 10, generator=torch.Generator().manual_seed(3), requires_grad=True)
    loss = row_loss(logits, row, beta=1.0)
    expected = [
        -torch.log_softmax(logits[place, list(tokens)], 0)[tokens.index(label)]
        for place, (tokens, label) in enumerate(zip(admitted, (4, 5, 8), strict=True))
    ]
    assert torch.isclose(loss.constrained, torch.stack(expected).sum())
    assert loss.constrained < loss.nll
    loss.constrained.backward()
    assert logits.grad is not None
    assert torch.all(logits.grad[1] == 0), "where one token is admitted there is nothing to learn"
    assert torch.all(logits.grad[0, [0, 1, 2, 3, 5, 6, 8, 9]] == 0), "what cannot come is not pushed down"


def test_without_admitted_tokens_both_losses_are_one() -> None:
    row = lay_out([Tree((1, 2), (Branch("a", (3, 4, 5), 1),))])
    loss = row_loss(torch.randn(2, 10), row, beta=1.0)
    assert torch.equal(loss.constrained, loss.nll)
