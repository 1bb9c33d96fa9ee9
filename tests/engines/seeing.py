"""Run by the interpreter of an environment with mlx-vlm: what its engine answers alone and in batches, as JSON.

python -m tests.engines.seeing CHECKPOINT < {"requests": {id: [turns, fields]}}
"""

import base64
import json
import sys

from llmctl.domain import IMAGE, Chunk, EngineSpec, Failure, GenerateRequest, Media, Sampling
from llmctl.engines import adapter
from llmctl.engines.batch import BatchEngine


def request(id, picture, question, n):
    parts = [*([{"type": "image"}] if picture else []), {"type": "text", "text": question}]
    media = (Media(IMAGE, base64.b64decode(picture)),) if picture else ()
    return GenerateRequest(
        id, messages=({"role": "user", "content": parts},), media=media, sampling=Sampling(temperature=0),
        max_tokens=16, n=n, logprobs=0,
    )  # fmt: skip


def answers(steps, requests):
    """{"id index": its text}, and how many sequences the largest pass had."""
    events, largest = [], 0
    batch = BatchEngine(steps, events.append)
    forward = steps.forward

    def counted(feed, every=()):
        nonlocal largest
        largest = max(largest, *(len(part) for part in steps._parts(feed)))
        return forward(feed, every)

    steps.forward = counted
    for one in requests:
        batch.submit(one)
    while batch.step():
        pass
    del steps.forward
    found = {}
    for event in events:
        if isinstance(event, Failure):
            found[event.id] = event.error["message"]
        elif isinstance(event, Chunk):
            key = f"{event.id} {event.index}"
            found[key] = found.get(key, "") + event.text
    return found, largest


def main(path, asked):
    spec = EngineSpec("mlx", "m", path, "safetensors", context=512, parallel=8, device="cpu", dtype="float32")
    steps = adapter("mlx").load_steps(spec, lambda *_: None)
    requests = [request(id, *rest) for id, rest in asked.items()]
    alone = {}
    for one in requests:
        alone |= answers(steps, [one])[0]
    together, largest = answers(steps, requests)
    return {"alone": alone, "together": together, "largest": largest, "kept": len(steps._prefixes._kept)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.load(sys.stdin))))
