"""Run ``vantage-agent`` as ``python -m vantage_agent``."""

import sys

from vantage_agent.run import main

if __name__ == "__main__":
    sys.exit(main())
