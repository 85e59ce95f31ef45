"""The sub-commands that the workstation side adds to `masa`, one module each."""
