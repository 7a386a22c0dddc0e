"""One framework under one agent: for each line with a number, so many calls, and how long they took."""

from __future__ import annotations

import gc
import resource
import sys
import time

from benchmarks.agents import agents
from benchmarks.agents.applications import FRAMEWORKS


def main(framework: str, agent: str, url: str) -> None:
    agents.before(agent, framework, url)
    target, calls = FRAMEWORKS[framework]()
    agents.after(agent, framework, target, url)
    calls(300)
    gc.collect()
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        calls(int(line))
        took_s = time.perf_counter() - began
        print(took_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
