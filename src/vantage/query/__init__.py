"""Queries of people and scripts, one file each, run on the stores as checked queries."""
