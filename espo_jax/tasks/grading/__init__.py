"""Grades free text: decides whether the final answer of a response equals the gold answer mathematically."""

from espo_jax.tasks.grading.grader import Grader, Verdict, grade

__all__ = ['Grader', 'Verdict', 'grade']
