"""Asks a GGUF file every question through xllamacpp: python -m tiny.gguf_check FILE; fails for a wrong answer."""

from __future__ import annotations

import sys
import tempfile

from . import lessons


def main() -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.n_ctx = 512
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = False
    parameters.verbosity = 1
    with tempfile.TemporaryDirectory() as folder:
        parameters.hostnames = [f"{folder}/server.sock"]  # so that its HTTP server takes no port
        server = xllamacpp.Server(parameters)
        wrong = [line for pair in lessons.read().pairs if (line := _ask(server, *pair))]
    sys.exit("\n".join(wrong) or 0)


def _ask(server: object, question: str, answer: str) -> str | None:
    """None for a right answer, else a line that says what came instead."""
    request = {"messages": [{"role": "user", "content": question}], "max_tokens": 160, "temperature": 0}
    given = server.handle_chat_completions(request)
    choice = given.get("choices", [{}])[0]
    if choice.get("finish_reason") == "stop" and choice["message"]["content"].strip() == answer.strip():
        return None
    return f"{question} {given}"


if __name__ == "__main__":
    main()
