"""The cost that an agent adds to one request, against the same application without, in one run."""
