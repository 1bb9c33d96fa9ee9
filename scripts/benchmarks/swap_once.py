"""Swap to the spec on stdin, then ask for one token: python -m scripts.benchmarks.swap_once HOME PORT"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from llmctl.domain import SlotSpec
from llmctl.slots import verbs
from scripts.benchmarks.testbed import read_events

home, port = Path(sys.argv[1]), int(sys.argv[2])
verbs.change(home, port, "swap", SlotSpec.from_dict(json.load(sys.stdin)))
asyncio.run(read_events(port, "/v1/completions", {"prompt": "go", "max_tokens": 1}))
