"""The workstation side of masa: profile, evolve, build the data set, distill.

This version contains none of it yet; the device side is the package `masa`.
"""
