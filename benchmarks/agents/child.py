"""One framework under one agent: for each line with a number, make that many calls, and print the CPU time they took.

It prints the time of the calling thread, and that of all threads since the previous line: an agent's own thread, which
also works between lines, takes CPU time from the application as well.
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
    before_s = time.process_time()
    for line in sys.stdin:
        began_s = time.thread_time()
        calls(int(line))
        took_s = time.thread_time() - began_s
        now_s = time.process_time()
        print(took_s, now_s - before_s, flush=True)
        before_s = now_s


if __name__ == "__main__":
    main(*sys.argv[1:])
