"""Grading: whether the final answer of a free text equals the gold answer, as mathematics."""

from espo_jax.tasks.grading.grader import Grader, Verdict, grade

__all__ = ['Grader', 'Verdict', 'grade']
