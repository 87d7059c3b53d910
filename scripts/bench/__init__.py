"""What the benchmarks of the rollout share: the workload, the contenders, each in a process of its own, and the report."""
