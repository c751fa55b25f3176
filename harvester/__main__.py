"""`python -m harvester`: harvests, unless a command is named."""

from __future__ import annotations

import sys

from harvester.cli import main

if __name__ == "__main__":
    sys.exit(main())
