"""transformers' generate() on lines {"prompts": ids, "new": n} → {"rate": tokens a second}."""

from __future__ import annotations

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto", local_files_only=True).eval()
for line in sys.stdin:
    asked = json.loads(line)
    ids = torch.tensor(asked["prompts"])
    with torch.inference_mode():
        began = time.perf_counter()
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=asked["new"],
            max_new_tokens=asked["new"],
        )  # fmt: skip
        seconds = time.perf_counter() - began
    print(json.dumps({"rate": (out.shape[1] - ids.shape[1]) * len(ids) / seconds}), flush=True)
