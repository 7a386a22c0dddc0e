"""The connections of the server: uvicorn's protocols with limits on number, size and time."""
