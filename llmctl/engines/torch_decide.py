"""Typed decisions with transformers' own prompts, labels and answers, computed by the torch engine.

transformers' pipeline computes a prompt in one pass; here it comes in pieces over a cache of its own, as any prompt.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from functools import cached_property
from typing import Any

from llmctl.decoding.sampling import nonfinite
from llmctl.domain import StepEngine
from llmctl.engines.requests import too_long
from llmctl.engines.tasks import Work, fits
from llmctl.engines.tokenizer import strings
from llmctl.engines.torch_attention import Pass
from llmctl.engines.torch_cache import KVCache
from llmctl.errors import RequestError


class Decider:
    """Answers DECIDE with a loaded model; its tokenizer and settings are read at the first question."""

    def __init__(self, engine: StepEngine, model: Any) -> None:
        self._engine, self._model = engine, model

    def decide(self, state: Any, questions: Mapping[str, Any], assets: Mapping[str, Any] | None = None) -> Work:
        """A probability for every allowed answer to each question; RequestError in transformers' words."""
        from transformers.decision import label_token_ids
        from transformers.decision.modeling_utils import process_scores

        if assets:
            raise RequestError(f"{self._engine.identity.model} decides on text, not on images", param="assets")
        fits(strings([state, questions]), "state", self._engine)
        prompts = self._prompts({"state": state, "questions": questions})
        yield
        answers: dict[str, Any] = {}
        for inputs, asked in prompts:
            ids, marks = inputs["input_ids"], inputs["marks"]
            logits = yield from self._logits(ids[0].tolist(), [int(mark) - 1 for mark in marks])
            try:
                labels = [
                    row[label_token_ids(self._tokenizer, tuple(q.labels))] for row, q in zip(logits, asked, strict=True)
                ]
            except ValueError as error:
                raise RequestError(f"this model cannot decide: {error}", param="questions") from error
            scores = process_scores(self._config, ids, marks, asked, labels)
            answers |= {q.name: q.answer(s.softmax(-1).tolist()) for q, s in zip(asked, scores, strict=True)}
        return {"answers": answers, "tokens": sum(inputs["input_ids"].shape[-1] for inputs, _ in prompts)}

    def _prompts(self, request: Mapping[str, Any]) -> list[tuple[dict[str, Any], list[Any]]]:
        """transformers' (inputs, questions) of each prompt, none over the context."""
        from jinja2 import TemplateError

        try:
            prompts: list[tuple[dict[str, Any], list[Any]]] = self._config.prepare_inputs(request, self._tokenizer)
        except (ValueError, TypeError, LookupError, TemplateError) as error:
            raise RequestError(f"this request cannot be put to the model: {error}", param="questions") from error
        longest, context = max(inputs["input_ids"].shape[-1] for inputs, _ in prompts), self._engine.identity.context
        if longest > context:
            raise too_long(f"state and question have {longest} tokens; the context is {context}", "state")
        return prompts

    def _logits(self, ids: list[int], places: list[int]) -> Generator[None, None, list[Any]]:
        """Float32 logits after the tokens at `places`, as rows in their order."""
        import torch

        cache, found, chunk = KVCache(), dict[int, Any](), self._engine.prefill_chunk
        device = self._model.device
        for at in range(0, max(places) + 1, chunk):
            piece = ids[at : min(at + chunk, max(places) + 1)]
            here = sorted({place - at for place in places if at <= place < at + chunk}) or [len(piece) - 1]
            cache.extend({0: len(piece)})
            with torch.inference_mode():
                out = self._model(
                    input_ids=torch.tensor([piece], device=device),
                    position_ids=torch.arange(at, at + len(piece), device=device)[None],
                    use_cache=False,
                    logits_to_keep=torch.tensor(here, device=device),
                    forward=Pass(cache, 0, [at], len(piece)),
                )
            found |= {at + place: row for place, row in zip(here, out.logits[0].float().cpu(), strict=True)}
            yield
        if not all(bool(found[place].max().isfinite()) for place in places):
            raise nonfinite()
        return [found[place] for place in places]

    @cached_property
    def _tokenizer(self) -> Any:
        """One of its own: transformers adds marks to it."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._model.name_or_path, local_files_only=True)

    @cached_property
    def _config(self) -> Any:
        """decision.json and decision_template.jinja of the checkpoint, else transformers' defaults."""
        from transformers.decision import DecisionConfig

        config = DecisionConfig.from_pretrained(self._model.name_or_path, local_files_only=True)
        if config.adapter:
            raise RequestError(f"{self._engine.identity.model} decides with an adapter, which is not loaded")
        return config
