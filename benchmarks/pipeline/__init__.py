"""``--only pipeline``: the split roles against a real broker and a real ClickHouse server."""
