"""A package, so that `ops` is this one and not `benchmarks/ops.py`."""
