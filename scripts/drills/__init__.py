"""Shared code of the drills: each breaks something on purpose in many ways, and counts after how many all is well."""
