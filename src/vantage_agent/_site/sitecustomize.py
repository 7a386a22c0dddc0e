"""Python imports this at its start, because ``vantage-agent run`` puts this folder first on PYTHONPATH.

It starts the agent from the environment, then runs the ``sitecustomize`` that it shadows, if there is one.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  # pathlib is slow to import at every start


def _start_agent() -> None:
    try:
        try:
            import vantage_agent
        except ImportError:  # another interpreter or environment: the agent has no dependencies
            home = os.path.dirname(os.path.dirname(_HERE))  # noqa: PTH120
            sys.path.append(home)
            try:
                import vantage_agent
            finally:
                sys.path.remove(home)
        vantage_agent.init_agent(auto_instrument=os.environ.get("VANTAGE_AGENT_AUTO_INSTRUMENT", "all"))
    except Exception as error:
        print(f"vantage-agent: not started: {error}", file=sys.stderr)  # noqa: T201  # nothing is configured to log yet


def _run_next() -> None:
    others = [path for path in sys.path if os.path.abspath(path) != _HERE]  # noqa: PTH100
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


_start_agent()
_run_next()
