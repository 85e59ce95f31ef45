"""The build side of masa: turns a checkpoint of `masa distill` into what the device loads, and proves it equal.

So far: LoRA checkpoints to GGUF adapters (`masa export adapter`), and whole checkpoints to quantized GGUF artifacts
(`masa export gguf`). The device side is the package `masa`.
"""
