"""The pipeline: from a backbone to a verified artifact, every stage by the functions of its own command."""

from masa_training.pipeline.config import PipelineConfig, load_pipeline, pipeline_names

__all__ = ["PipelineConfig", "load_pipeline", "pipeline_names"]
