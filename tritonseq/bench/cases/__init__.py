"""Benchmark cases of every kernel, at the shapes of the workloads."""
