"""The language models that act as backbones or as teacher."""

from masa_training.models.opening import check_model, open_model
from masa_training.models.protocol import Message, Model, ModelError, Reply, Request, Stream, Usage, stream_of

__all__ = [
    "Message", "Model", "ModelError", "Reply", "Request", "Stream", "Usage", "check_model", "open_model", "stream_of",
]  # fmt: skip
