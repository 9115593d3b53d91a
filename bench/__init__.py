"""Benchmarks: `python -m bench.engine` (CPU), `python -m bench.gpu` (any CUDA machine), `bench/peers` (other tools)."""
