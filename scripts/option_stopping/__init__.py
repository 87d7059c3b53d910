"""Optimal stopping with a known value: when to exercise an option. `market` has the problem, and the other files stop it."""
