"""Shared code of the rollout benchmarks: the workload, the contenders (each in its own process) and the report."""
