"""What a request cost, from the answers of all protocols."""

from __future__ import annotations

import pytest

from llmctl.gateway.usage import Usage, of

OPENAI = b'{"choices":[{"message":{"content":"\\"usage\\": {\\"prompt_tokens\\": 99}"}}],"usage":{"prompt_tokens":5,'
OPENAI += b'"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}'


@pytest.mark.parametrize(
    ("head", "tail", "found"),
    [
        (b"", OPENAI, Usage(5, 2)),
        (
            b"",
            b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":9}}\n\ndata: [DONE]\n\n',
            Usage(7, 9),
        ),
        (b"", b'data: {"usage":null}\n\n: usage {"prompt_tokens":1,"completion_tokens":2}\n\n', Usage(1, 2)),
        (b"", b': usage {"prompt_tokens":1,"completion_tokens":2}\n\n{"usage":{"input_tokens":9}}', Usage(1, 2)),
        (b"", b'data: {"text":": usage {\\"prompt_tokens\\":1}"}\n\ndata: {"usage":null}\n\n', None),
        (
            b'data: {"type":"message_start","message":{"usage":{"input_tokens":11,"output_tokens":1}}}\n\n',
            b'data: {"type":"message_delta","usage":{"output_tokens":4}}\n\ndata: {"type":"message_stop"}\n\n',
            Usage(11, 4),
        ),
        (b"", b'{"done":true,"prompt_eval_count":3,"eval_count":64}\n', Usage(3, 64)),
        (b"", b'data: {"type":"end","tokens_out":20,"decode_time_ms":5}\n\n', Usage(0, 20)),
        (b"", b'{"object":"list","usage":{"prompt_tokens":8,"total_tokens":8}}', Usage(8, 0)),
    ],
)
def test_it_is_read_from_the_answer(head: bytes, tail: bytes, found: Usage | None) -> None:
    assert of(head, tail, 0, 100) == (found or Usage(100, 0, estimated=True))


def test_without_a_word_events_are_counted() -> None:
    assert of(b"", b"data: [DONE]\n\n", 12, 50) == Usage(50, 10, estimated=True)
    assert of(b"", b'{"usage": {"a": {"b": {}}}}', 0, 7) == Usage(7, 0, estimated=True)


def test_what_it_costs() -> None:
    assert Usage(1_000_000, 500_000).cost((0.1, 0.4)) == pytest.approx(0.3) and Usage(2, 3).total == 5
