"""The demo: a shop of five services whose traffic fills every page and can be removed."""

from vantage.demo.send import remove_demo, run_demo

__all__ = ["remove_demo", "run_demo"]
