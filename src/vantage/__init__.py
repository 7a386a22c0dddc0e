"""Vantage: a self-hosted observability platform. The server; the agent is the package ``vantage_agent``."""

__version__ = "0.1.0"
