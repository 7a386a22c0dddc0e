"""The baselines that Vantage is measured against."""
