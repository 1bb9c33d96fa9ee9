"""Stop strings: the released text is the same at every split, and no beginning of a stop string leaks."""

from hypothesis import given, settings
from hypothesis import strategies as st

from llmctl.decoding.stops import StopMatcher

TEXTS = st.text(alphabet="ab<|é🙂字", max_size=24)
STOPS = st.lists(st.text(alphabet="ab<|é🙂字", min_size=1, max_size=5), max_size=4)


def stream(pieces, stops):
    """(released text, matched stop, text released before the end was known)."""
    matcher, out = StopMatcher(stops), ""
    for piece in pieces:
        out += matcher.push(piece)
        if matcher.matched is not None:
            return out, matcher.matched, out
    return out + matcher.flush(), None, out


def expected(text, stops):
    """By definition: cut at the match that ends first, the longest of those that end there."""
    ends = [(text.find(s) + len(s), -len(s), s) for s in stops if s in text]
    if not ends:
        return text, None
    end, length, stop = min(ends)
    return text[: end + length], stop


@settings(deadline=None)
@given(TEXTS, STOPS, st.data())
def test_any_split_gives_the_text_cut_at_the_first_match(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert stream(pieces, stops)[:2] == expected(text, stops)


@settings(deadline=None)
@given(TEXTS, STOPS)
def test_only_what_could_begin_a_stop_is_held_back(text, stops):
    matcher, out = StopMatcher(stops), ""
    for at, char in enumerate(text, 1):
        out += matcher.push(char)
        if matcher.matched is not None:
            return
        held = max((n for s in stops for n in range(len(s)) if text[:at].endswith(s[:n])), default=0)
        assert out == text[: at - held]


def test_a_stop_inside_a_longer_possible_stop_matches_at_once():
    assert stream("xabcd", ["abcd", "bc"])[:2] == ("xa", "bc")


def test_nothing_is_released_after_a_match():
    matcher = StopMatcher(["b"])
    assert matcher.push("ab") == "a"
    assert matcher.push("c") == ""
    assert matcher.flush() == ""
