"""The build side of masa: merge, quantize, verify and package a rewriter.

This version contains none of it yet; the device side is the package `masa`.
"""
