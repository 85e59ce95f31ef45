"""The workstation side of masa: build a data set, distill a rewriter from it, judge the rewriter.

The commands are `masa distill dataset`, `masa distill` and `masa evaluate rewriter`. Evolution comes later.
"""
