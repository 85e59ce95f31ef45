"""The language models that act as backbones or as teacher."""

from masa_training.models.opening import open_model
from masa_training.models.protocol import Message, Model, ModelError, Reply, Request, Usage

__all__ = ["Message", "Model", "ModelError", "Reply", "Request", "Usage", "open_model"]
