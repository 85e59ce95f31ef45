"""Fine-tuning a rewriter on a data set."""
