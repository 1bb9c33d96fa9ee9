"""What `llmctl bench` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.text import View, escaped


def _run(data: Mapping[str, Any]) -> str:
    speed = data["speed"]
    one = speed["generation_tokens_per_second"]
    lines = [
        f"{data['host']}:{data['port']}  {data['model']} · {data['engine']} · {speed['requests']} requests of "
        f"{data['prompt']} + {data['new']} tokens, {speed['streams']} at once",
        f"prompt      {speed['prompt_tokens_per_second']:.1f} tokens/s",
        f"generation  {f'{one:.1f} tokens/s of one answer' if one else '-'}, "
        f"{speed['tokens_per_second']:.1f} tokens/s of all, prompts included",
        f"first token {speed['first_token_p50'] * 1000:.0f} ms in the middle, "
        f"{speed['first_token_p95'] * 1000:.0f} ms at the 95th of 100",
    ]
    if speed["cached_tokens"]:
        lines.append(f"{speed['cached_tokens']} of {speed['prompt_tokens']} prompt tokens were not computed again")
    return "\n".join(lines + (_profile(data["profile"]) if data["profile"] else []))


def _profile(found: Mapping[str, Any]) -> list[str]:
    idle = "" if found["idle"] is None else f", {found['idle']:.0%} of it without work"
    rows = [f"{row['seconds']:9.3f} s  {row['share']:4.0%}  {escaped(row['name'])}" for row in found["top"]]
    return ["", f"by {found['way']}, {found['seconds']:.1f} s{idle}:", *rows, f"→ {found['path']}"]


VIEWS: dict[str, View] = {"bench run": _run}
