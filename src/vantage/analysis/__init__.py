"""Judgement, as pure numpy and scipy: comparison, health, anomalies. No I/O."""
