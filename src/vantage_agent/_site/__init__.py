"""The folder that ``vantage-agent run`` puts on the child's PYTHONPATH."""
