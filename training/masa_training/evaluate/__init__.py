"""What `masa evaluate` measures: banks played against each other, and rewriters asked with right and wrong cards."""
