"""Execution of a checked query on numpy columns."""
