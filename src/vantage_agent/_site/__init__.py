"""The folder that ``vantage-agent run`` adds to the child's PYTHONPATH."""
