"""OpenVINO's ContinuousBatchingPipeline on lines of bodies → {"seconds", "tokens", "first"}: GGUF STREAMS CONTEXT."""

from __future__ import annotations

import json
import os
import sys
import time

import openvino_genai as genai
from openvino import Tensor

path, streams, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # the library prints
scheduler = genai.SchedulerConfig()
scheduler.enable_prefix_caching = False
scheduler.max_num_batched_tokens = 1024
scheduler.max_num_seqs = streams
scheduler.num_kv_blocks = context // 32 + 2 * streams
pipeline = genai.ContinuousBatchingPipeline(path, scheduler, "CPU")
words: dict[str, int] = {}


def ids(text: str) -> Tensor:
    """As many ids as words, in the places of ours: the pipeline's tokenizer would put a chat around them."""
    import numpy as np

    return Tensor(np.array([[words.setdefault(word, 300 + len(words)) for word in text.split()]], dtype=np.int64))


for number, line in enumerate(sys.stdin):
    bodies = json.loads(line)
    began = time.perf_counter()
    handles = []
    for i, body in enumerate(bodies):
        config = genai.GenerationConfig(
            max_new_tokens=body["max_tokens"], ignore_eos=True, do_sample=False, apply_chat_template=False
        )
        handles.append(pipeline.add_request(number * 1000 + i, ids(body["prompt"]), config))
    first, tokens = [0.0] * len(handles), 0
    while pipeline.has_non_finished_requests():
        pipeline.step()
        for i, handle in enumerate(handles):
            while handle.can_read():
                made = sum(len(output.generated_ids) for output in handle.read().values())
                first[i] = first[i] or time.perf_counter() - began
                tokens += made
    print(json.dumps({"seconds": time.perf_counter() - began, "tokens": tokens, "first": first}), file=answers)
