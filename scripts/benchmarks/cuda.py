"""The torch engine on a CUDA GPU beside transformers' own batching: python -m scripts.benchmarks.cuda [SHAPE…]

Shapes of 0.5 and 8 billion parameters with random weights in bfloat16, made here. Without a GPU it ends with 5. Never
run on one by this project yet.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmctl.domain import Chunk, EngineSpec, Event, GenerateRequest, Sampling
from llmctl.engines import adapter
from scripts.benchmarks import peer_servers, peers, report
from scripts.benchmarks.report import Row, row
from scripts.tiny import bench_model

NO_GPU = 5
RUNS, PROMPT, NEW = 5, 128, 128
STREAMS = (1, 32, 128)
SHAPES = ("0.5b", "8b")
QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 4096,
    "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip


def measure(shapes: tuple[str, ...]) -> Iterator[Row]:
    bandwidth = copied()
    yield row("memory bandwidth of the GPU, GB/s", [bandwidth / 1e9], "", "a copy of 4 GiB, reads and writes together")
    with tempfile.TemporaryDirectory() as made:
        small = Path(made, "0.5b")
        small.mkdir()
        bench_model.write(small)
        for name in shapes:
            folder = small if name == "0.5b" else large(Path(made, name), small)
            yield from in_process(name, folder, bandwidth)
            gc.collect()
            yield from over_http(name, folder)


def copied() -> float:
    """Bytes a second."""
    import torch

    source = torch.empty(4 * 2**30, dtype=torch.uint8, device="cuda")
    target, seconds = torch.empty_like(source), []
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * source.numel() / min(seconds)


def large(folder: Path, small: Path) -> Path:
    """Qwen3-8B's shape with the small one's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(small, folder, ignore=shutil.ignore_patterns("*.safetensors*", "config.json"))
    (folder / "config.json").write_text(json.dumps(QWEN3_8B), encoding="utf-8")
    with torch.device("cuda"):
        make: Any = AutoModelForCausalLM.from_config
        model = make(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(QWEN3_8B), encoding="utf-8")
    return folder


def in_process(name: str, folder: Path, bandwidth: float) -> Iterator[Row]:
    """Our batch loop and `generate_batch`, in turn on the same prompts."""
    events: list[Event] = []
    spec = EngineSpec(
        "torch", name, str(folder), "safetensors", context=1024, parallel=max(STREAMS), device="cuda", dtype="bfloat16"
    )
    engine = adapter("torch").load(spec, lambda *_: None, events.append)
    theirs = transformers_batch(folder)

    def ours(prompts: list[list[int]]) -> float:
        events.clear()
        for n, prompt in enumerate(prompts):
            sampling = Sampling(temperature=0)
            engine.submit(
                GenerateRequest(str(n), prompt=tuple(prompt), sampling=sampling, max_tokens=NEW, ignore_eos=True)
            )
        began = time.perf_counter()
        while engine.step():
            pass
        seconds = time.perf_counter() - began
        usages = [event.usage for event in events if isinstance(event, Chunk) and event.usage]
        assert sum(usage.completion for usage in usages) == len(prompts) * NEW, events[-1]
        return len(prompts) * NEW / seconds

    for streams in STREAMS:
        for warm_up in (90, 91):
            ours(prompts(streams, warm_up)), theirs(prompts(streams, warm_up))
        pairs = [(ours(prompts(streams, run)), theirs(prompts(streams, 50 + run))) for run in range(RUNS)]
        here = sorted(a for a, _ in pairs)[RUNS // 2]
        yield row(
            f"torch on CUDA, {name}, {streams} streams: tokens/s ÷ transformers' generate_batch",
            [a / b for a, b in pairs], "≥ 1.0", f"{here:.0f} tokens/s here; {PROMPT} prompt + {NEW} new tokens, greedy",
        )  # fmt: skip
        if streams == 1:
            yield row(
                f"torch on CUDA, {name}: share of the memory bandwidth at one stream",
                [a * engine.identity.memory_bytes / bandwidth for a, _ in pairs], "≥ 0.6",
                "tokens/s, prompt included, × bytes of weights ÷ the bandwidth above",
            )  # fmt: skip
    engine.close()


def transformers_batch(folder: Path) -> Callable[[list[list[int]]], float]:
    """Tokens a second of `generate_batch`, on a model of its own."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    read: Any = AutoModelForCausalLM.from_pretrained
    settings: Any = GenerationConfig
    model = read(folder, dtype=torch.bfloat16, local_files_only=True).cuda().eval()

    def rate(asked: list[list[int]]) -> float:
        config = settings(max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, eos_token_id=-1)
        began = time.perf_counter()
        made = model.generate_batch(asked, generation_config=config, warmup=False, persistent_manager=True)
        seconds = time.perf_counter() - began
        return sum(len(one.generated_tokens) for one in made.values()) / seconds

    return rate


def over_http(name: str, folder: Path) -> Iterator[Row]:
    """Our runner and `transformers serve`, where its libraries can be had."""
    if importlib.util.find_spec("fastapi") is None:
        print(f"{name}: `transformers serve` is left out: pip install 'transformers[serving]'", file=sys.stderr)
        return
    points = tuple(peers.Point(streams, PROMPT, NEW, 3) for streams in STREAMS)
    yield from peers.beside("torch", folder, peer_servers.transformers_serve, points, "≥ 1.0")


def prompts(streams: int, run: int) -> list[list[int]]:
    """Prompts that share nothing, with each other or with another run's."""
    return [
        [(7919 * (run * 1024 + s + 1) + 31 * i) % 30_000 + 300 for i in range(PROMPT)] for s in range(streams)
    ]  # fmt: skip


def main(arguments: list[str]) -> int:
    import torch

    if not torch.cuda.is_available():
        print("no GPU here: nothing was measured", file=sys.stderr)
        return NO_GPU
    if unknown := set(arguments) - set(SHAPES):
        print(f"error: no shape {', '.join(unknown)}\nhint: {', '.join(SHAPES)}", file=sys.stderr)
        return 2
    rows = []
    for one in measure(tuple(arguments) or SHAPES):
        print(one.line(), flush=True)
        rows.append(one)
    report.write("cuda", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
