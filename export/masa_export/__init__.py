"""The build side of masa: turns a checkpoint of `masa distill` into what the device loads, and proves it equal.

LoRA checkpoints become GGUF adapters (`masa export adapter`), whole checkpoints quantized artifacts (`gguf`, `onnx`).
These are compared with their checkpoint (`verify`) and with each other on a device (`tune`), and made into what is
published (`package`). The device side is the package `masa`.
"""
