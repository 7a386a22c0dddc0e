"""One framework under one agent: for each line with a number, so many calls, and the processor time they took.

That of all threads: what an agent leaves to a thread of its own is taken from the application all the same.
"""

from __future__ import annotations

import gc
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
        began = time.process_time()
        calls(int(line))
        took_s = time.process_time() - began
        print(took_s, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
