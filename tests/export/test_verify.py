"""The gate on a tiny model that llama.cpp and transformers really run: sound exports pass, planted defects do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from masa.artifact import load_artifact
from masa.backends import Backend
from masa.cli.application import root
from masa_export.adapter_export import export_adapter
from masa_export.errors import ExportError
from masa_export.gguf_export import GgufSettings, export_gguf
from masa_export.publish.folder import plan_package, write_package
from masa_export.verify.checkpoint import Reference
from masa_export.verify.report import Report, summarize, to_json, to_markdown, write_report
from masa_export.verify.run import Settings, make_checks, verify_all
from masa_training.transformers_backend import TransformersBackend
from tests.tiny_gguf import FEED, HEADS, HIDDEN, KV_HEADS, LAYERS, write_tiny_gguf

from .checkpoint_samples import write_checkpoint
from .gguf_defects import copy_artifact, rewrite_gguf, seal, tokens_of

pytestmark = pytest.mark.model
KV = HIDDEN * KV_HEADS // HEADS
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "mlp.down_proj": (HIDDEN, FEED),
}
LOUDER = {"token_embd": 4.0, "attn_q": 6.0, "attn_k": 6.0, "attn_v": 4.0, "ffn_down": 2.0}
"""Random weights as they are leave all next tokens about equally likely, and attention looks nowhere: factors."""


def lora() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in range(LAYERS):
        for module, (rows, columns) in SHAPES.items():
            stem = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{stem}.lora_A.weight"] = rng.normal(0, 0.3, (4, columns)).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = rng.normal(0, 0.3, (rows, 4)).astype(np.float32)
    return tensors


def sample(number: int) -> dict[str, Any]:
    """A line of a data set for the plan language."""
    skills = [["s1", "Look", f"Look into box {number}. Then open it.", ""], ["s2", "Take", "Take one thing.", ""]]
    card = {"family": f"F{number}", "weaknesses": ["repeats actions", "stops early", "skips steps"][number % 3]}
    request = {
        "task_type": None,
        "skills": skills,
        "card": card,
        "task": "",
        "environment": "",
        "facts": None,
    }
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": f"Größe {number} <|im_end|>"}]
    target = {"role": "assistant", "content": "1 shorten\n2 keep"}
    return {"id": f"t{number}", "messages": [*messages, target], "language": "plan", "request": request}


@pytest.fixture(scope="module")
def made(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a checkpoint of it, sound artifacts in F32 and Q8_0, and held-out samples."""
    folder = tmp_path_factory.mktemp("verify")
    quiet = write_tiny_gguf(smollm2, folder / "quiet.gguf")

    def louder(name: str, values: np.ndarray) -> np.ndarray:
        return values * LOUDER.get(name.removesuffix(".weight").split(".")[-1], 1.0)

    base = rewrite_gguf(quiet, folder / "base.gguf", tensors=louder)
    modules = [module.rsplit(".", 1)[1] for module in SHAPES]
    config = {"target_modules": modules, "task_type": "CAUSAL_LM"}
    write_checkpoint(folder / "checkpoint", base, lora(), config=config, context_length=4096)
    export_gguf(
        folder / "checkpoint",
        GgufSettings(("F32", "Q8_0"), output=folder, name="tiny", verify=False, threads=1),
    )
    lines = [json.dumps(sample(number)) for number in range(4)]
    (folder / "held-out.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True, scope="module")
def _loaded_once() -> Iterator[None]:
    """All tests have the same checkpoint: load it once."""
    opened = Reference.open
    loaded: dict[tuple[Path, str], Backend] = {}

    def once(self: Reference, dtype: str = "float32") -> Backend:
        if (self.path, dtype) not in loaded:
            loaded[self.path, dtype] = opened(self, dtype)
        return loaded[self.path, dtype]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reference, "open", once)
        patch.setattr(TransformersBackend, "close", lambda self: None)
        yield


def gated(artifact: Path, checkpoint: Path, settings: Settings) -> Report:
    (report,) = verify_all(make_checks([str(artifact)], checkpoint, settings))
    return report


def gate(made: Path, artifact: Path, **settings: Any) -> Report:
    chosen = Settings(prompts=made / "held-out.jsonl", resources=False, threads=1, **settings)
    return gated(artifact, made / "checkpoint", chosen)


def failed(report: Report) -> set[str]:
    return {verdict.name for verdict in report.failed}


def run(*args: object) -> Result:
    return CliRunner().invoke(root, ["export", "verify", *map(str, args)])


def test_a_sound_export_passes_and_its_report_says_what_was_measured(made: Path, tmp_path: Path) -> None:
    done = run(
        made / "tiny-f32", "--against", made / "checkpoint", "--prompts", made / "held-out.jsonl",
        "-o", tmp_path / "report", "--threads", 1, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["passed"] is True and found["failed"] == []
    assert found["likeness"]["positions"] > 20
    assert found["likeness"]["divergence"] < 0.005 and found["tokens"]["texts"] > 50
    assert found["outputs"]["groups"] == 4 and found["awareness"]["compared"] == 4
    assert found["template"]["jinja"] is True
    assert found["resources"]["memory"] > found["resources"]["bytes"] and found["resources"]["decode_speed"] > 0
    assert json.loads((tmp_path / "report" / "verify.json").read_text("utf-8")) == found
    text = (tmp_path / "report" / "verify.md").read_text("utf-8")
    assert text.startswith("# tiny-f32: passes") and "| kl |" in text
    ((weights, entry),) = load_artifact(made / "tiny-f32").entries.items()
    assert found["subject"]["files"] == {weights: entry.sha256} and entry.sha256 in text


def test_a_quantized_export_is_held_to_the_thresholds_of_its_type(made: Path) -> None:
    report = gate(made, made / "tiny-q8_0")
    assert report.subject.strictness == "8 bits"
    limits = {verdict.name: verdict.limit for verdict in report.verdicts}
    assert limits["kl"] == 0.03 and limits["tokens"] == 0


def test_with_its_report_inside_an_artifact_is_packaged_until_its_weights_change(made: Path, tmp_path: Path) -> None:
    folder, weights = copy_artifact(made / "tiny-f32", tmp_path / "sound")
    with pytest.raises(ExportError, match="holds no parity report"):
        plan_package(str(folder), tmp_path / "package")
    write_report(gate(made, folder), folder)
    write_package(plan_package(str(folder), tmp_path / "package"))
    assert load_artifact(tmp_path / "package").training_data.licence == "CC0-1.0"
    rewrite_gguf(made / "base.gguf", weights)
    with pytest.raises(ExportError, match="is about other files than those beside it"):
        plan_package(str(seal(folder)), tmp_path / "package")


def test_a_swapped_tokenizer_is_caught(made: Path, tmp_path: Path) -> None:
    folder, weights = copy_artifact(made / "tiny-f32", tmp_path / "swapped")
    tokens = tokens_of(weights)
    a, b = tokens.index("e"), tokens.index("t")
    tokens[a], tokens[b] = tokens[b], tokens[a]
    rewrite_gguf(made / "tiny-f32" / weights.name, weights, metadata={"tokenizer.ggml.tokens": tokens})
    report = gate(made, seal(folder))
    assert "tokens" in failed(report) and "kl" not in failed(report)
    assert report.tokens is not None and report.tokens.first


def test_a_special_token_that_became_text_is_caught(made: Path, tmp_path: Path) -> None:
    import gguf

    folder, weights = copy_artifact(made / "tiny-f32", tmp_path / "plain")
    kinds = list(gguf.GGUFReader(weights).fields["tokenizer.ggml.token_type"].contents())
    kinds[tokens_of(weights).index("<|im_start|>")] = int(gguf.TokenType.NORMAL)
    rewrite_gguf(made / "tiny-f32" / weights.name, weights, metadata={"tokenizer.ggml.token_type": kinds})
    report = gate(made, seal(folder))
    assert "tokens" in failed(report) and report.tokens is not None and report.tokens.moved == 1


def test_a_missing_adapter_is_caught(made: Path, tmp_path: Path) -> None:
    folder, weights = copy_artifact(made / "tiny-f32", tmp_path / "bare")
    rewrite_gguf(made / "base.gguf", weights)
    assert {"kl", "top1"} <= failed(gate(made, seal(folder)))


def test_an_adapter_that_the_manifest_forgot_is_caught(made: Path, tmp_path: Path) -> None:
    folder, weights = copy_artifact(made / "tiny-f32", tmp_path / "lora")
    rewrite_gguf(made / "base.gguf", weights)
    export_adapter(made / "checkpoint", output=folder / "adapter.gguf", kind="f32", verify=False)
    content = json.loads((folder / "manifest.json").read_text("utf-8"))
    content["files"]["adapter.gguf"] = {}
    (folder / "manifest.json").write_text(json.dumps({**content, "adapter": "adapter.gguf"}), encoding="utf-8")
    report = gate(made, seal(folder))
    assert report.passed, report.sentence
    content = json.loads((folder / "manifest.json").read_text("utf-8"))
    (folder / "manifest.json").write_text(json.dumps({**content, "adapter": None}), encoding="utf-8")
    assert {"kl", "top1"} <= failed(gate(made, folder))


@pytest.mark.parametrize("sealed", [False, True])
def test_a_truncated_file_is_caught(made: Path, tmp_path: Path, sealed: bool) -> None:
    folder, weights = copy_artifact(made / "tiny-f32", tmp_path / "short")
    weights.write_bytes(weights.read_bytes()[:-5000])
    if sealed:
        seal(folder)
    done = run(folder, "--against", made / "checkpoint", "--prompts", made / "held-out.jsonl", "--no-resources")
    assert done.exit_code == 1 and "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1 and "truncated" in errors[0] and weights.name in errors[0]


def test_a_wrong_rope_base_is_caught(made: Path, tmp_path: Path) -> None:
    folder, weights = copy_artifact(made / "tiny-f32", tmp_path / "rope")
    rewrite_gguf(made / "tiny-f32" / weights.name, weights, metadata={"llama.rope.freq_base": 500000.0})
    report = gate(made, seal(folder))
    assert "kl" in failed(report)
    assert report.outputs is not None and report.outputs.same < 1
    margins = report.outputs.margins
    assert 0 < len(margins) <= round(report.outputs.groups * (1 - report.outputs.same))
    assert all(margin > 0 for margin in margins), "the checkpoint wrote what it preferred"
    assert f"{max(margins):.3g} nats at most" in to_markdown(report)


@pytest.mark.parametrize("where", ["weights", "manifest"])
def test_a_dropped_chat_template_is_caught(made: Path, tmp_path: Path, where: str) -> None:
    bare = {"before_system": [], "before_user": [["\n", False]], "before_assistant": [], "stop": ["<|im_end|>"]}
    changes = {"chat_template": bare} if where == "manifest" else {}
    folder, weights = copy_artifact(made / "tiny-f32", tmp_path / "untemplated", **changes)
    if where == "weights":
        rewrite_gguf(made / "tiny-f32" / weights.name, weights, metadata={"tokenizer.chat_template": ...})
    report = gate(made, seal(folder))
    assert "template" in failed(report) and report.template is not None and len(report.template.problems) == 1


def test_another_chat_template_in_the_weights_is_caught_by_what_it_renders(made: Path, tmp_path: Path) -> None:
    folder, weights = copy_artifact(made / "tiny-f32", tmp_path / "other")
    other = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    rewrite_gguf(made / "tiny-f32" / weights.name, weights, metadata={"tokenizer.chat_template": other})
    report = gate(made, seal(folder))
    assert "template" in failed(report) and report.template is not None
    assert "conversations differently" in report.template.problems[0]


def test_a_zeroed_layer_is_caught(made: Path, tmp_path: Path) -> None:
    folder, weights = copy_artifact(made / "tiny-f32", tmp_path / "zeroed")
    rewrite_gguf(
        made / "tiny-f32" / weights.name,
        weights,
        tensors=lambda name, values: values * 0 if name.startswith("blk.1.") else values,
    )
    assert "kl" in failed(gate(made, seal(folder)))


def test_another_vocabulary_is_named_and_not_compared(made: Path, smollm2: Path, tmp_path: Path) -> None:
    from tests import tiny_gguf

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_gguf, "VOCABULARY", 1024)
        smaller = write_tiny_gguf(smollm2, tmp_path / "smaller.gguf")
    folder, weights = copy_artifact(made / "tiny-f32", tmp_path / "vocabulary")
    rewrite_gguf(smaller, weights)
    report = gate(made, seal(folder))
    assert any("1024 tokens, the checkpoint of 2048" in problem for problem in report.problems)
    assert report.likeness is None and not report.passed


def test_a_failure_is_named_and_its_report_is_written(made: Path, tmp_path: Path) -> None:
    done = run(
        made / "tiny-f32", "--against", made / "checkpoint", "--prompts", made / "held-out.jsonl",
        "--no-resources", "-o", tmp_path, "--threshold", "kl=-1", "--threshold", "memory_mb=1", "-q",
    )  # fmt: skip
    assert done.exit_code == 1 and done.stdout == ""
    assert "kl is" in done.stderr and "at most -1 is allowed" in done.stderr
    assert "memory_mb has a threshold and could not be measured" in done.stderr
    assert json.loads((tmp_path / "verify.json").read_text("utf-8"))["failed"] == ["kl", "memory_mb"]
    assert "FAILS" in (tmp_path / "verify.md").read_text("utf-8")


def test_messages_without_requests_and_the_shipped_example_are_samples_too(made: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"messages": sample(number)["messages"]}) for number in range(2)]
    (tmp_path / "chat.jsonl").write_text("\n".join(lines), encoding="utf-8")
    settings = Settings(prompts=tmp_path / "chat.jsonl", resources=False, threads=1)
    report = gated(made / "tiny-f32", made / "checkpoint", settings)
    assert report.passed and report.likeness is not None and report.outputs is None
    assert any("No sample tells its group and card" in note for note in report.notes)
    settings = Settings(resources=False, threads=1, limit=2)
    report = gated(made / "tiny-f32", made / "checkpoint", settings)
    assert report.passed and report.likeness is not None and report.likeness.positions > 4, "the checkpoint's own words"


def test_a_rewriter_of_words_is_asked_for_operations(made: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(made / "checkpoint", tmp_path / "checkpoint")
    notes = json.loads((checkpoint / "masa.json").read_text())
    (checkpoint / "masa.json").write_text(json.dumps({**notes, "language": "wording"}))
    export_adapter(checkpoint, artifact=tmp_path / "words", verify=False)
    settings = Settings(limit=3, wrong_cards=1, threads=1)
    (plan,) = make_checks([str(tmp_path / "words")], checkpoint, settings)
    assert {sample.request.operation for sample in plan.samples.chosen if sample.request} <= {"steps", "explain"}
    (report,) = verify_all([plan])
    assert report.outputs is not None and report.outputs.groups == 3 and not report.problems
    assert report.resources is not None and report.resources.groups > 0
    with pytest.raises(ExportError, match="no sample for a rewriter that writes wording"):
        make_checks([str(tmp_path / "words")], checkpoint, replace(settings, prompts=made / "held-out.jsonl"))


def test_a_dry_run_loads_no_model(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from masa.backends.llama import LlamaBackend

    monkeypatch.setattr(LlamaBackend, "load", lambda *args, **kwargs: pytest.fail("a model was loaded"))
    done = run(made / "tiny-f32", "--against", made / "checkpoint", "--dry-run", "--threshold", "top1=off", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["chosen"], found["available"], found["strictness"]) == (24, 25, "16 bits")
    assert found["thresholds"]["top1"] is None and found["thresholds"]["kl"] == 0.01


def test_mistakes_cost_one_sentence(made: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"messages": []}\n', encoding="utf-8")
    common = (made / "tiny-f32", "--against", made / "checkpoint")
    for args, message in (
        ((tmp_path / "none", "--against", made / "checkpoint"), "no such folder"),
        ((made / "tiny-f32", "--against", tmp_path), "no checkpoint of masa distill"),
        ((*common, "--prompts", tmp_path / "none.jsonl"), "none.jsonl"),
        ((*common, "--prompts", tmp_path / "bad.jsonl"), "line 1: no sample"),
        ((*common, "--prompts", tmp_path), "neither test.jsonl"),
        ((*common, "--threshold", "kll=1"), 'did you mean "kl"'),
        ((*common, "--threshold", "kl=much"), "'much' is not a number"),
    ):
        done = run(*args)
        assert done.exit_code == 1 and message in done.stderr, done.output
        assert done.stderr.count("\n") == 1


def test_several_artifacts_ask_the_checkpoint_once(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every report is what it is alone, though the checkpoint computed its side for the first artifact only."""
    sessions = 0
    opened = TransformersBackend.session

    def counted(self: TransformersBackend, *, slots: int, length: int) -> Any:
        nonlocal sessions
        sessions += 1
        return opened(self, slots=slots, length=length)

    monkeypatch.setattr(TransformersBackend, "session", counted)
    artifacts = [made / "tiny-f32", made / "tiny-q8_0", made / "tiny-f32"]
    shared = ["--against", made / "checkpoint", "--prompts", made / "held-out.jsonl", "--no-resources", "--threads", 1]
    alone = {artifact: gate(made, artifact) for artifact in artifacts[:2]}
    alone_sessions, sessions = sessions, 0
    done = run(*artifacts[:2], *shared, "-o", tmp_path / "reports", "--json")
    told = json.loads(done.stdout)
    assert told["passed"] is (done.exit_code == 0) is all(report.passed for report in alone.values())
    assert [report["subject"]["name"] for report in told["reports"]] == ["tiny-f32", "tiny-q8_0"]
    for report, artifact in zip(told["reports"], artifacts, strict=False):
        expected = to_json(alone[artifact])
        for key in ("likeness", "awareness", "verdicts", "tokens", "template", "problems"):
            assert report[key] == expected[key], key
        assert {**report["outputs"], "margins": 0} == {**expected["outputs"], "margins": 0}
        folder = tmp_path / "reports" / artifact.name
        assert json.loads((folder / "verify.json").read_text())["likeness"] == report["likeness"]
    # One more session for every output that differs: where it parts is looked up in the checkpoint each time.
    assert sessions < alone_sessions
    parted = sum(len(report["outputs"]["margins"]) for report in told["reports"])
    assert sessions - parted <= (alone_sessions - parted) // 2 + 1
    summary = (tmp_path / "reports" / "summary.md").read_text()
    assert "| tiny-f32 | F32 |" in summary and "| tiny-q8_0 | Q8_0 |" in summary
    twice = run(*artifacts, *shared, "-o", tmp_path / "other")
    assert twice.exit_code == 1 and "two artifacts of this name" in twice.stderr and not (tmp_path / "other").exists()


def test_a_summary_says_by_how_much_outputs_part_as_the_reports_do(made: Path) -> None:
    report = gate(made, made / "tiny-f32")
    assert report.outputs is not None
    parting = replace(report, outputs=replace(report.outputs, margins=(0.25, 0.01)))
    expected = "0.25 nats at most, 0.13 in the median"
    assert expected in to_markdown(parting) and expected in summarize([parting])


def test_reports_can_be_put_into_the_artifacts(made: Path, tmp_path: Path) -> None:
    for name in ("tiny-f32", "tiny-q8_0"):
        shutil.copytree(made / name, tmp_path / name)
    done = run(
        tmp_path / "tiny-f32", tmp_path / "tiny-q8_0", "--against", made / "checkpoint", "--prompts",
        made / "held-out.jsonl", "--no-resources", "--threads", 1, "--inside", "--limit", 1, "--wrong-cards", 0,
    )  # fmt: skip
    assert "Traceback" not in done.output, "whether Q8_0 of these weights passes is another test's"
    for name in ("tiny-f32", "tiny-q8_0"):
        assert json.loads((tmp_path / name / "verify.json").read_text())["subject"]["name"] == name


def test_one_artifact_that_fails_does_not_hide_the_others(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "tiny-f32", tmp_path / "tiny-broken")
    weights = next((tmp_path / "tiny-broken").glob("*.gguf"))
    weights.write_bytes(weights.read_bytes()[:-100])
    done = run(
        tmp_path / "tiny-broken", made / "tiny-f32", "--against", made / "checkpoint", "--prompts",
        made / "held-out.jsonl", "--no-resources", "--threads", 1, "--limit", 2, "-o", tmp_path / "reports",
    )  # fmt: skip
    assert done.exit_code == 1 and "tiny-broken" in done.stderr and "Traceback" not in done.output
    summary = (tmp_path / "reports" / "summary.md").read_text()
    assert summary.count("**fails**") == 1 and summary.count("| passes |") == 1
