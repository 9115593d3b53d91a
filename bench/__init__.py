"""Benchmarks: each module prints what it measured and writes it under build/bench."""
