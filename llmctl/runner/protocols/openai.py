"""The OpenAI protocol: chats, completions, responses, embeddings, and the routes that others added to it."""

from __future__ import annotations

from llmctl.runner.metrics import Metrics
from llmctl.runner.protocols.asked import Routes, generating
from llmctl.runner.protocols.openai_answers import ChatAnswer
from llmctl.runner.protocols.openai_completion_answer import CompletionAnswer
from llmctl.runner.protocols.openai_completions import read_completion
from llmctl.runner.protocols.openai_embeddings import embedding
from llmctl.runner.protocols.openai_fields import read_chat
from llmctl.runner.protocols.openai_models import model_routes
from llmctl.runner.protocols.openai_prompts import begin_each
from llmctl.runner.protocols.openai_response_answer import ResponseAnswer
from llmctl.runner.protocols.openai_responses import read_response
from llmctl.runner.protocols.openai_tasks import asking, decide, detokenize, rerank, tokenize
from llmctl.runner.protocols.protocol import Protocol
from llmctl.runner.service import Service


def protocol(service: Service, metrics: Metrics) -> Protocol:
    """This protocol's part of a slot."""
    completions = generating(service, metrics, read_completion, CompletionAnswer, begin_each(metrics))
    routes: Routes = {
        **model_routes(service),
        "/v1/chat/completions": {"POST": generating(service, metrics, read_chat, ChatAnswer)},
        "/v1/completions": {"POST": completions},
        "/v1/responses": {"POST": generating(service, metrics, read_response, ResponseAnswer)},
        "/v1/embeddings": {"POST": embedding(service)},
        "/v1/rerank": {"POST": asking(service, rerank)},
        "/v1/systemone": {"POST": asking(service, decide)},
        "/tokenize": {"POST": asking(service, tokenize)},
        "/detokenize": {"POST": asking(service, detokenize)},
    }
    return Protocol(routes)
