"""A model of transformers as the ONNX graph that masa runs: exported by optimum, then rewired."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa_export.checkpoint import Checkpoint
from masa_export.errors import ExportError
from masa_export.onnx_graph import attention_of, rewire
from masa_export.onnx_quantize import save
from masa_export.sample_logits import POSITIONS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def export_graph(model: Any, checkpoint: Checkpoint, target: Path, notes: Mapping[str, str], scratch: Path) -> None:
    """Write `model` (the merged checkpoint, float32) to the file `target`, its weights beside it.

    `notes` become the graph's metadata. Needs room for the model twice in the folder `scratch`.

    Raises:
        ExportError: if optimum or masa does not know how.
        OSError: if a file cannot be written.
    """
    import onnx
    from optimum.exporters.onnx import onnx_export_from_model

    attention = attention_of(model, checkpoint.context_length)
    raw = scratch / "raw"
    try:
        with quiet():
            onnx_export_from_model(
                model,
                raw,
                task="text-generation-with-past",
                monolith=True,
                no_post_process=True,
                do_validation=False,
            )
    except (ValueError, KeyError, RuntimeError, NotImplementedError, TypeError) as error:
        raise ExportError(
            f"{checkpoint.path}: optimum cannot export this model ({' '.join(str(error).split())[:200]}); "
            "export to GGUF"
        ) from error
    graph = onnx.load(str(raw / "model.onnx"))
    shutil.rmtree(raw)
    rewire(graph, attention)
    onnx.helper.set_model_props(graph, dict(notes))
    save(graph, target)


def torch_logits(model: Any, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """transformers' logits of the last tokens of every prompt, as `masa_export.sample_logits` computes a backend's."""
    import numpy as np
    import torch

    with torch.inference_mode():
        rows = [model(torch.tensor([tokens]), logits_to_keep=POSITIONS).logits[0].numpy() for tokens in prompts]
    return np.concatenate(rows)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch, optimum and onnxruntime print and warn about off the terminal; errors are still raised."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
