"""Benchmarks as code; `benchmarks/` holds thin scripts over them."""
