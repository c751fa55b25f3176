"""Results as JSON on standard output."""

from __future__ import annotations

import json  # orjson refuses lone surrogates, which a path or a profile may have
import sys
from typing import Any


def print_json(result: dict[str, Any]) -> None:
    """Write a command's result as the one JSON object on standard output."""
    text = json.dumps(result, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(result, separators=(",", ":"))
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
