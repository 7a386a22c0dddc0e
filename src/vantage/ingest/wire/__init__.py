"""One file a wire format: from a request's body to a batch and a list of what was rejected."""
