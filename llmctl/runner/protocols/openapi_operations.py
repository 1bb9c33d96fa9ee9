"""The table of a slot's HTTP routes for its OpenAPI document: a route of any protocol has its line here."""

from __future__ import annotations

from collections.abc import Mapping

from llmctl.runner.protocols import anthropic_fields, ollama_fields
from llmctl.runner.protocols.openai_completions import COMPLETION
from llmctl.runner.protocols.openai_embeddings import EMBEDDED
from llmctl.runner.protocols.openai_fields import CHAT, IGNORED
from llmctl.runner.protocols.openai_messages import SCHEMA as MESSAGES
from llmctl.runner.protocols.openai_responses import IGNORED as RESPONSE_IGNORED
from llmctl.runner.protocols.openai_responses import RESPONSE
from llmctl.runner.protocols.openai_tasks import DECIDED, DETOKENIZED, RERANKED, TOKENIZED
from llmctl.runner.protocols.openapi import EVENTS, NDJSON, TEXT, Operation, Schema, body

TEXT_FIELD: Schema = {"type": "string", "minLength": 1}
PLAIN_MESSAGES: Mapping[str, Schema] = {"messages": MESSAGES}
JOB: Schema = {
    "type": "object",
    "properties": {
        "job_id": {"type": "string", "minLength": 1, "maxLength": 256},
        "prompt": {"type": "string", "minLength": 1, "maxLength": 32768},
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": 2048},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    },
    "required": ["job_id", "prompt", "max_tokens"],
    "additionalProperties": False,
}
CHOICES = ("id", "object", "choices", "usage")

OPERATIONS = (
    # ── the slot ──
    Operation("GET", "/health", "Whether the slot serves; never waits.", answer=("status",), key=False),
    Operation("GET", "/ready", "Whether the engine has generated a token.", answer=("ready", "state")),
    Operation("GET", "/metrics", "For Prometheus.", types=(TEXT,), json=False),
    Operation("GET", "/openapi.json", "This document.", answer=("openapi", "paths")),
    # ── OpenAI's, and what others added to it ──
    Operation("GET", "/v1/models", "The names this slot answers to.", answer=("object", "data")),
    Operation("GET", "/v1/models/{name}", "One of them.", answer=("id", "object")),
    Operation("POST", "/v1/chat/completions", "A chat.", body(CHAT, ("messages",), IGNORED), CHOICES, (EVENTS,)),
    Operation(
        "POST", "/v1/completions", "The continuation of a text.",
        body(COMPLETION, ("prompt",), IGNORED), CHOICES, (EVENTS,),
    ),
    Operation(
        "POST", "/v1/responses", "A chat as items; nothing is stored.",
        body(RESPONSE, ("input",), RESPONSE_IGNORED), ("id", "object", "output", "status"), (EVENTS,),
    ),
    Operation("POST", "/v1/embeddings", "Vectors of texts.", body(EMBEDDED, ("input",), ("user",)), ("data", "usage")),
    Operation("POST", "/v1/rerank", "Documents in order.", body(RERANKED, ("query", "documents")), ("results",)),
    Operation("POST", "/v1/systemone", "Typed decisions.", body(DECIDED, ("state", "questions")), ("answers",)),
    Operation("POST", "/tokenize", "A text's tokens.", body(TOKENIZED), ("tokens", "count")),
    Operation("POST", "/detokenize", "Tokens' text.", body(DETOKENIZED, ("tokens",)), ("prompt",)),
    # ── Anthropic's ──
    Operation(
        "POST", "/v1/messages", "A chat.",
        body(anthropic_fields.MESSAGES, ("messages", "max_tokens"), anthropic_fields.IGNORED, PLAIN_MESSAGES),
        ("id", "content", "usage"), (EVENTS,),
    ),
    Operation(
        "POST", "/v1/messages/count_tokens", "How many tokens a chat has.",
        body(anthropic_fields.COUNTED, ("messages",), anthropic_fields.IGNORED, PLAIN_MESSAGES), ("input_tokens",),
    ),
    # ── Ollama's ──
    Operation("GET", "/", "That a slot is here.", types=(TEXT,), json=False),
    Operation("GET", "/api/version", "The API's version.", answer=("version",)),
    Operation("GET", "/api/tags", "The models.", answer=("models",)),
    Operation("GET", "/api/ps", "The loaded models.", answer=("models",)),
    Operation("POST", "/api/show", "What a model is.", {"type": "object", "properties": {"model": TEXT_FIELD}}),
    Operation(
        "POST", "/api/chat", "A chat.",
        body(ollama_fields.CHAT, ("model",), ollama_fields.IGNORED, PLAIN_MESSAGES), ("model", "done"), (NDJSON,),
        fails=(501,),
    ),
    Operation(
        "POST", "/api/generate", "The continuation of a text.",
        body(ollama_fields.GENERATE, ("model",), ollama_fields.IGNORED), ("model", "done"), (NDJSON,), fails=(501,),
    ),
    Operation(
        "POST", "/api/embed", "Vectors of texts.",
        body(ollama_fields.EMBEDDING, ("input",), ollama_fields.IGNORED, {"input": TEXT_FIELD}), ("embeddings",),
    ),
    Operation(
        "POST", "/api/embeddings", "The vector of a text.",
        body(ollama_fields.EMBEDDING, ("prompt",), ollama_fields.IGNORED), ("embedding",),
    ),
    *(
        Operation(method, f"/api/{verb}", "Refused: an operator's work.", {"type": "object"}, fails=(501,))
        for verb in ("pull", "push", "create", "copy", "delete")
        for method in ("POST", "DELETE")
    ),
    # ── rbee's ──
    Operation("POST", "/execute", "A job, as events.", JOB, types=(EVENTS,), json=False),
    Operation("POST", "/v1/jobs", "A job for later.", JOB, ("job_id", "sse_url")),
    Operation("GET", "/v1/jobs/{id}/stream", "Its events.", types=(EVENTS,), json=False),
    Operation("GET", "/v1/ready", "Whether it is loaded.", answer=("ready", "state")),
    Operation("GET", "/v1/loading/progress", "How far a load is, as events.", types=(EVENTS,), json=False),
)  # fmt: skip
