"""Render a chat template as transformers does, without transformers: Jinja in its sandbox, with the same additions.

The template comes with the model and is untrusted: it gets plain JSON values, and what it raises is the client's error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from llmctl.errors import RequestError, Unsupported

LARGEST = 16 * 2**20  # characters of a rendered conversation


def compile_template(source: str, variables: Mapping[str, Any]) -> Callable[..., str]:
    """A function of messages and further variables → text; `variables` are what else it may name (`bos_token`, …)."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what the assistant says, for training; here it is only its content."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=bool(options.pop("ensure_ascii", False)), indent=indent, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        template = environment.from_string(source)
    except TemplateError as error:
        raise Unsupported(f"the model's chat template is not valid: {error}") from error

    def render(messages: list[dict[str, Any]], **more: Any) -> str:
        try:
            text = ""
            for piece in template.generate({**variables, **more, "messages": messages}):
                text += piece
                if len(text) > LARGEST:
                    raise RequestError("the conversation is too long", param="messages")
            return text
        except RequestError:
            raise
        except Exception as error:  # whatever a template does with these messages
            raise RequestError(
                f"the model's chat template rejects these messages: {error}", param="messages"
            ) from error

    return render
