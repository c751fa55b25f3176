"""`python -m harvester`: harvests, unless a command is named."""

from __future__ import annotations

from harvester.cli import main

if __name__ == "__main__":
    main()
