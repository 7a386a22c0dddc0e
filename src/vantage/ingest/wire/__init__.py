"""One file per wire format: from a request's body to a batch and the samples that are rejected."""
