"""Detokenization: whole characters as they complete, the same text as decoding all at once."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from llmctl.decoding.detokenize import Detokenizer
from llmctl.decoding.output import TextOutput
from llmctl.domain import TokenLogprob


def run(pieces, **options):
    """The text of each push, and of the flush."""
    detokenizer = Detokenizer(lambda token: pieces[token], **options)
    return [detokenizer.push(i) for i in range(len(pieces))] + [detokenizer.flush()]


def split(data, cuts):
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@settings(deadline=None)
@given(st.text(), st.lists(st.integers(0, 60), max_size=8))
def test_the_concatenation_is_the_text_at_every_byte_split(text, cuts):
    texts = run(split(text.encode(), cuts))
    assert "".join(texts) == text
    assert texts[-1] == ""


@settings(deadline=None)
@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=8))
def test_bytes_that_are_no_text_become_replacement_characters(data, cuts):
    assert "".join(run(split(data, cuts))) == data.decode("utf-8", "replace")


def test_a_character_comes_with_its_last_byte():
    assert run([b"\xf0\x9f", b"\x99", b"\x82!"]) == ["", "", "🙂!", ""]


def test_an_incomplete_character_at_the_end_is_one_replacement():
    assert run([b"a", b"\xf0\x9f\x99"]) == ["a", "", "�"]


def test_the_first_space_is_dropped_when_asked_and_no_other():
    assert run([b"", b" Hello", b" you"], strip_space=True)[:3] == ["", "Hello", " you"]
    assert run([b" Hello"])[0] == " Hello"


def output(pieces, stops):
    """[(text, tokens with a log-probability)] of every push and the end."""
    out = TextOutput(Detokenizer(lambda token: pieces[token]), stops)
    parts = []
    for i in range(len(pieces)):
        parts.append(out.push(i, TokenLogprob("", i, 0.0)))
        if out.matched is not None:
            break
    parts.append(out.finish())
    return [(text, [p.id for p in logprobs]) for text, logprobs, *_ in parts], out.matched


def test_logprobs_come_with_the_first_character_of_their_token():
    smile = "🙂".encode()
    parts, _ = output([b"a", smile[:2], smile[2:], b"b"], [])
    assert parts == [("a", [0]), ("", []), ("🙂", [1, 2]), ("b", [3]), ("", [])]


def test_tokens_of_a_matched_stop_string_have_no_logprobs():
    parts, matched = output([b"a", b"b<", b"|e", b"nd|>"], ["<|end|>"])
    assert matched == "<|end|>"
    assert parts == [("a", [0]), ("b", [1]), ("", []), ("", []), ("", [])]


def test_text_held_for_a_stop_comes_at_the_end_with_its_logprobs():
    parts, matched = output([b"a", b"<|", b"en"], ["<|end|>"])
    assert matched is None
    assert parts == [("a", [0]), ("", []), ("", []), ("<|en", [1, 2])]


def test_a_stop_string_that_is_the_replacement_of_a_broken_end():
    parts, matched = output([b"a", b"\xf0"], ["�"])
    assert matched == "�"
    assert "".join(text for text, _ in parts) == "a"
