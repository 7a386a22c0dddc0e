"""VQL: a closed, immutable query tree, its checker, and its execution on numpy columns."""
