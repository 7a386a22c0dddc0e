"""``python -m vantage_agent`` is ``vantage-agent``."""

import sys

from vantage_agent.run import main

if __name__ == "__main__":
    sys.exit(main())
