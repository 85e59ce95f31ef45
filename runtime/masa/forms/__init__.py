"""Forms: a shipped rewriter written anew for this machine, as what its CPU computes fastest without loss.

An artifact ships small: quantized weights and an adapter, which llama.cpp multiplies anew for every token. `make_form`
merges both, writes them for ONNX Runtime in some of `masa.forms.graph.FORMS`, and keeps the first that computes what
the merged weights compute in numpy. `find_form` is what was kept: an artifact in the cache folder, for this CPU and
this rewriter, made anew when one of the two changes. `masa export onnx` writes the same graphs. No torch, no network.
"""
