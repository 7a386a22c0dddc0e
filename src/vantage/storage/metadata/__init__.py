"""Configuration and its history: keys, deployments and the audit log."""
