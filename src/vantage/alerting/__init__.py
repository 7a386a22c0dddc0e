"""Alerting: rules are evaluated, alerts change their state, people are notified."""
