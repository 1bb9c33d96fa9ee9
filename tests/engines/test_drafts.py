"""Speculative decoding over toy engines: the same text in fewer passes, whoever proposes and however wrong."""

import pytest

from llmctl.domain import NGRAM, Chunk, EngineSpec, Failure, GenerateRequest, Sampling
from llmctl.engines import drafts
from llmctl.engines.batch import BatchEngine
from llmctl.engines.drafts import SEQUENCES, DraftModel, Drafts, Ngrams, drafter
from llmctl.errors import Unsupported
from tests.engines.toy import EOS, VOCAB, ToyEngine, ToyForward, ToySeparate

GREEDY = Sampling(temperature=0)
SONG = "one two three four one two three four one two three five"


class Fixed:
    """Proposes whatever it was told, to everyone."""

    def __init__(self, tokens):
        self.tokens, self.asked, self.forgotten = tokens, [], []

    def propose(self, texts, most):
        self.asked.append({handle: list(text) for handle, text in texts.items()})
        return {handle: self.tokens[: most[handle]] for handle in texts}

    def forget(self, handle):
        self.forgotten.append(handle)

    def close(self):
        self.closed = True


class Bench:
    """A batch engine with a draft over a toy."""

    def __init__(self, draft, kind=ToyForward, **toy):
        self.toy = kind(**toy)
        self.events = []
        self.engine = BatchEngine(self.toy, self.events.append, draft=draft)

    def run(self, *prompts, **fields):
        """{id: text} of requests named by their place."""
        for id, prompt in enumerate(prompts):
            self.engine.submit(GenerateRequest(str(id), prompt=prompt, **{"sampling": GREEDY, **fields}))
        while self.engine.step():
            pass
        assert self.toy.sequences == {}
        assert not [e for e in self.events if isinstance(e, Failure)]
        texts = dict.fromkeys(map(str, range(len(prompts))), "")
        for chunk in self.chunks():
            texts[chunk.id] += chunk.text
        return texts

    def chunks(self):
        return [e for e in self.events if isinstance(e, Chunk)]

    def usage(self):
        return next(c.usage for c in self.chunks() if c.usage)

    def passes(self):
        return len(self.toy.work)


PROMPTS = ["alpha", "beta beta beta", "gamma"]
SAMPLINGS = [
    GREEDY,
    Sampling(seed=3),
    Sampling(seed=3, temperature=0.4, top_p=0.9, repetition_penalty=1.2, frequency_penalty=0.4),
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("kind", [ToyForward, ToySeparate])
@pytest.mark.parametrize("draft", ["ngrams", "right", "wrong", "end of text"])
def test_a_draft_changes_no_text(draft, kind, sampling):
    drafters = {
        "ngrams": Ngrams,
        "right": lambda: DraftModel(ToyForward()),
        "wrong": lambda: Fixed([1, 2, 3]),
        "end of text": lambda: Fixed([EOS, EOS]),
    }
    fields = {"sampling": sampling, "max_tokens": 30, "stop": ("q",), "logprobs": 1}
    assert Bench(drafters[draft](), kind).run(*PROMPTS, **fields) == Bench(None, kind).run(*PROMPTS, **fields)


def test_the_logprobs_of_drafted_tokens_are_the_models_own():
    def logprobs(draft):
        bench = Bench(draft, says={"sing": SONG})
        bench.run("sing", logprobs=1)
        return [p for c in bench.chunks() for p in c.logprobs]

    plain = logprobs(None)
    assert plain == logprobs(Ngrams())
    assert len(plain) == len(SONG)


def test_a_model_that_agrees_saves_passes_and_the_usage_tells():
    plain, drafted = (
        Bench(None, says={"sing": SONG}),
        Bench(DraftModel(ToyForward(says={"sing": SONG})), says={"sing": SONG}),
    )
    assert plain.run("sing") == drafted.run("sing") == {"0": SONG}
    assert drafted.passes() < plain.passes() / 4
    usage = drafted.usage()
    assert usage.completion == plain.usage().completion == len(SONG) + 1
    assert usage.agreed > 40 and usage.drafted - usage.agreed < 16  # the last pass goes beyond the end
    assert plain.usage().drafted == 0


def test_what_was_proposed_in_the_last_pass_is_in_the_usage():
    bench = Bench(Fixed([ord("x")] * 50), says={"go": "xxx"})
    assert bench.run("go") == {"0": "xxx"}
    assert (bench.usage().drafted, bench.usage().agreed) == (4, 2)


def test_ngrams_find_what_the_text_said_before():
    bench = Bench(Ngrams(), says={"sing": SONG})
    assert bench.run("sing") == {"0": SONG}
    assert bench.passes() < len(SONG) * 0.7
    assert bench.toy.rewound > 0  # "four" was proposed where "five" came


def test_a_draft_never_passes_the_budget():
    draft = Fixed([ord("x")] * 50)
    bench = Bench(draft, says={"go": "x" * 90}, context=40)
    assert bench.run("go", max_tokens=7) == {"0": "x" * 7}
    assert bench.run("go", ignore_eos=True) == {"0": "x" * 7 + "x" * 38}
    assert all(not texts or len(next(iter(texts.values()))) < 40 for texts in draft.asked)


def test_wrong_drafts_become_short_and_right_ones_long():
    def lengths(answer):
        bench = Bench(Fixed([ord("x")] * 50), says={"go": answer})
        bench.run("go")
        return [n - 1 for kind, n in bench.toy.work[1:] if kind == "forward"]

    assert lengths("x" * 90)[:3] == [4, 8, 16]
    assert lengths("y" * 90)[-1] == 1


def test_with_many_sequences_nothing_is_proposed():
    bench = Bench(Fixed([1, 2]), parallel=8, says={f"p{i}": "some answer" for i in range(SEQUENCES + 1)})
    bench.run(*(f"p{i}" for i in range(SEQUENCES + 1)))
    assert [kind for kind, _ in bench.toy.work] == ["forward", *["step"] * 11]


def test_a_drafter_is_told_of_every_end():
    draft = Fixed([1])
    bench = Bench(draft)
    bench.run("a", "b", n=2, sampling=Sampling(seed=1), max_tokens=4)
    assert {handle for texts in draft.asked for handle in texts} <= set(draft.forgotten)
    bench.engine.close()
    assert draft.closed


def test_a_draft_model_frees_what_it_held():
    small = ToyForward()
    Bench(DraftModel(small)).run(*PROMPTS, max_tokens=9)
    assert small.sequences == {}


def test_a_long_prompt_reaches_the_draft_model_in_chunks():
    small = ToyForward(says={"x" * 100: SONG}, chunk=16)
    bench = Bench(DraftModel(small), says={"x" * 100: SONG})
    assert bench.run("x" * 100) == {"0": SONG}
    assert max(n for _, n in small.work) == 16
    assert bench.usage().agreed > 20


def test_a_text_longer_than_the_draft_models_context_goes_on_without_it():
    small = ToyForward(context=30)
    bench = Bench(DraftModel(small), context=200)
    assert bench.run("alpha", max_tokens=60, ignore_eos=True) == Bench(None).run(
        "alpha", max_tokens=60, ignore_eos=True
    )
    assert all(len(tokens) <= 30 for tokens in small.ended)


def test_an_engine_that_cannot_rewind_is_never_given_a_draft():
    class NoWayBack(ToyForward):
        rewind = None

    bench = Bench(Fixed([1, 2]), NoWayBack)
    assert bench.run("alpha", max_tokens=9) == Bench(None).run("alpha", max_tokens=9)
    assert Bench(Fixed([1, 2]), ToyEngine).run("alpha", max_tokens=9) == Bench(None).run("alpha", max_tokens=9)


def test_nothing_is_proposed_behind_a_picture():
    class Job:
        seen, prompt = object(), [1]

    assert Drafts(Ngrams()).history(Job) is None
    Job.seen = None
    assert Drafts(Ngrams()).history(Job) == [1]


def spec(**fields):
    return EngineSpec("toy", "big", "/big", "gguf", **fields)


def test_what_a_spec_asks_for_is_made():
    assert drafter(spec(), None, VOCAB) is None
    assert isinstance(drafter(spec(draft=NGRAM), None, VOCAB), Ngrams)
    asked = []

    def load(small):
        asked.append(small)
        return ToyForward()

    assert isinstance(drafter(spec(draft="/small", parallel=9, context=99), load, VOCAB), DraftModel)
    assert (asked[0].path, asked[0].context, asked[0].parallel, asked[0].draft) == ("/small", 99, SEQUENCES, None)


def test_a_draft_with_another_vocabulary_is_refused_and_closed():
    small = ToyForward()
    with pytest.raises(Unsupported, match=r"300 tokens.*500") as caught:
        drafter(spec(draft="/small"), lambda _: small, 500)
    assert drafts.NGRAM in caught.value.hint
    assert small.closed
