"""The batch loop over a toy engine: what joins, leaves, fails and ends, and that requests never touch each other."""

import random
from dataclasses import replace

import numpy as np
import pytest

from llmctl.domain import (
    CANCELLED,
    LENGTH,
    STOP,
    TIME,
    Chunk,
    Failure,
    GenerateRequest,
    Media,
    Sampling,
    Started,
    Usage,
)
from llmctl.engines.batch import BatchEngine
from llmctl.errors import RequestError
from tests.engines.toy import EOS, VOCAB, ToyEngine, ToyForward, ToySeparate

GREEDY = Sampling(temperature=0)


class Bench:
    """A batch engine over a toy, with the events it sent."""

    kind = ToyEngine

    def __init__(self, *, clock=None, mask_for=None, **toy):
        self.toy = self.kind(**toy)
        self.events = []
        options = {"mask_for": mask_for} if mask_for else {}
        if clock:
            options["clock"] = clock
        self.engine = BatchEngine(self.toy, self.events.append, **options)

    def ask(self, id="a", prompt="hello", sampling=GREEDY, **fields):
        self.engine.submit(GenerateRequest(id, prompt=prompt, sampling=sampling, **fields))

    def run(self, *requests, **fields):
        """Submit (id, prompt) pairs or one request's fields, step to the end; {(id, index): text}."""
        for id, prompt in requests:
            self.ask(id, prompt, **fields)
        if not requests:
            self.ask(**fields)
        self.finish()
        return self.texts()

    def finish(self):
        while self.engine.step():
            pass
        assert self.toy.sequences == {}, "a sequence was not freed"

    def of(self, kind, id=None):
        return [e for e in self.events if isinstance(e, kind) and id in (None, e.id)]

    def texts(self):
        texts = {}
        for c in self.of(Chunk):
            texts[c.id, c.index] = texts.get((c.id, c.index), "") + c.text
        return texts

    def finishes(self, id="a"):
        return [c.finish for c in self.of(Chunk, id) if c.finish]


@pytest.fixture(autouse=True, params=[ToyEngine, ToyForward, ToySeparate])
def kind(request, monkeypatch):
    """Every test with each way of computing a pass."""
    monkeypatch.setattr(Bench, "kind", request.param)
    return request.param


def text(prompt, answer, **fields):
    """The text and finish of one request whose model would say `answer`."""
    bench = Bench(says={prompt: answer})
    bench.run(prompt=prompt, **fields)
    return bench.texts()["a", 0], bench.finishes()


def test_started_comes_first_and_usage_last():
    bench = Bench(says={"hi": "yes"})
    bench.run(prompt="hi")
    assert bench.events[0] == Started("a", 2)
    chunks = bench.of(Chunk)
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1] == Chunk("a", tokens=1, finish=STOP, usage=Usage(2, 4))
    assert sum(c.tokens for c in chunks) == 4  # three bytes and the end of sequence


def test_it_tells_how_many_tokens_are_held():
    bench = Bench()
    bench.ask("a", "hello", max_tokens=4, ignore_eos=True)
    assert bench.engine.held == 0
    seen = []
    while bench.engine.step():
        seen.append(bench.engine.held)
    assert max(seen) == 5 + 3 and bench.engine.held == 0
    bench = Bench(context=99)
    chunk = bench.toy.prefill_chunk
    bench.ask("a", "x" * (chunk + 3), max_tokens=1, ignore_eos=True)
    bench.engine.step()
    assert bench.engine.held == chunk


def test_the_pace_says_how_much_of_prompts_is_computed_at_once(monkeypatch):
    bench, asked = Bench(chunk=100), []
    monkeypatch.setattr(bench.engine._pace, "most", lambda *known: asked.append(known) or (5 if known[1] else 20))
    bench.ask("a", "x" * 30, max_tokens=50, ignore_eos=True)
    bench.engine.step()
    assert bench.engine.held == 20
    bench.engine.step()
    assert bench.engine.held >= 30
    for id in "bc":
        bench.ask(id, id * 12, max_tokens=1, ignore_eos=True)
    before = bench.engine.held
    bench.engine.step()
    assert bench.engine.held - before == 5 + 1  # a piece of b, and a's next token
    assert asked == [(100, 0, 1), (100, 0, 1), (100, 1, 2)]


def test_what_a_pass_took_is_told_to_the_pace(monkeypatch):
    times, told = iter(range(100)), []
    bench = Bench(chunk=100, clock=lambda: float(next(times)))
    monkeypatch.setattr(bench.engine._pace, "saw", lambda *seen: told.append(seen))
    bench.ask("a", "x" * 40, max_tokens=3, ignore_eos=True)
    bench.finish()
    assert told == [(40, 1.0)]  # passes of running sequences alone teach nothing of prompts


def test_a_pass_with_a_picture_teaches_nothing(monkeypatch):
    bench, told = Bench(chunk=100), []
    bench.engine.identity = replace(bench.engine.identity, inputs=("text", "image"))
    bench.toy.see = lambda request: (list(b"x" * 40), object())
    monkeypatch.setattr(bench.engine._pace, "saw", lambda *seen: told.append(seen))
    bench.ask("a", media=(Media("image", b"x"),), max_tokens=2, ignore_eos=True)
    bench.finish()
    assert bench.finishes() == [LENGTH] and not told


def test_max_tokens_ends_with_length():
    assert text("hi", "abcdef", max_tokens=3) == ("abc", [LENGTH])


def test_max_tokens_zero_generates_nothing():
    assert text("hi", "abcdef", max_tokens=0, echo=True) == ("hi", [LENGTH])


def test_without_max_tokens_the_context_is_the_limit():
    bench = Bench(context=20)
    bench.run(prompt="hello", ignore_eos=True)
    assert bench.of(Chunk)[-1].usage == Usage(5, 15)
    assert bench.finishes() == [LENGTH]


def test_max_tokens_past_the_rest_of_the_context_is_cut_to_it():
    bench = Bench(context=20)
    bench.run(prompt="hello", max_tokens=19, ignore_eos=True)
    assert bench.of(Chunk)[-1].usage == Usage(5, 15)


def test_ignore_eos_goes_on_and_the_end_has_no_text():
    toy = {"hi": [ord("a"), EOS, ord("b"), EOS]}
    bench = Bench(says=toy)
    assert bench.run(prompt="hi", max_tokens=3, ignore_eos=True) == {("a", 0): "ab"}
    assert Bench(says=toy).run(prompt="hi", max_tokens=3) == {("a", 0): "a"}


def test_a_stop_id_ends_without_its_text():
    assert text("hi", "abcdef", stop_ids=(ord("c"),)) == ("ab", [STOP])


@pytest.mark.parametrize("answer", ["one <|stop|> two", "🙂字<|stop|>字", "<|stop|>"])
def test_a_stop_string_over_token_borders_is_cut_and_named(answer):
    bench = Bench(says={"hi": answer})
    bench.run(prompt="hi", stop=("<|stop|>", "never"))
    assert bench.texts()["a", 0] == answer.split("<|stop|>")[0]
    assert bench.of(Chunk)[-1].finish == STOP
    assert bench.of(Chunk)[-1].stop_match == "<|stop|>"
    assert not any("<" in c.text for c in bench.of(Chunk))


def test_a_stop_string_of_emoji_and_chinese():
    assert text("hi", "你好🙂🙃吗", stop=("🙂🙃",)) == ("你好", [STOP])


def test_text_held_for_a_stop_string_comes_when_the_sequence_ends():
    assert text("hi", "abc<|st", stop=("<|stop|>",)) == ("abc<|st", [STOP])
    assert text("hi", "abc<|stxx", stop=("<|stop|>",), max_tokens=6) == ("abc<|s", [LENGTH])


def test_chunks_hold_whole_characters_and_a_torn_end_is_replaced_once():
    bench = Bench(says={"hi": "a🙂b"})
    bench.run(prompt="hi")
    assert [c.text for c in bench.of(Chunk)] == ["a", "🙂", "b", ""]
    assert text("hi", "a🙂b", max_tokens=4) == ("a�", [LENGTH])


@pytest.mark.parametrize(
    ("adds", "chat", "expected"), [(True, True, "yes"), (True, False, " yes"), (False, True, " yes")]
)
def test_the_space_that_a_tokenizer_puts_first_is_no_part_of_a_chats_answer(adds, chat, expected):
    bench = Bench(says={"hi": " yes"})
    encode = bench.toy.tokenizer.encode
    bench.toy.tokenizer.encode = lambda text, **options: encode(" " + text if adds and text == "a" else text, **options)
    prompt = {"prompt": None, "messages": ({"role": "user", "content": "hi"},)} if chat else {"prompt": "hi"}
    assert bench.run(**prompt) == {("a", 0): expected}


def test_echo_sends_the_prompt_first_and_stops_do_not_see_it():
    assert text("stop hi", "yes", echo=True, stop=("stop",)) == ("stop hiyes", [STOP])


def test_logprobs_cover_the_text_and_name_alternatives():
    bench = Bench(says={"hi": "yes"})
    bench.run(prompt="hi", logprobs=2)
    logprobs = [p for c in bench.of(Chunk) for p in c.logprobs]
    assert "".join(p.text for p in logprobs) == "yes"
    assert all(len(p.top) == 2 and p.top[0][1] == p.id and p.logprob == p.top[0][2] < 0 for p in logprobs)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": ()}, "prompt"),
        ({"prompt": (1, -1)}, "prompt"),
        ({"prompt": (VOCAB,)}, "prompt"),
        ({"prompt": "x" * 512}, "prompt"),
        ({"max_tokens": 513}, "max_tokens"),
        ({"stop_ids": (VOCAB,)}, "stop_token_ids"),
        ({"sampling": Sampling(logit_bias=((-1, 1.0),))}, "logit_bias"),
        ({"sampling": Sampling(repetition_penalty=0.0)}, "repetition_penalty"),
        ({"media": (Media("image", b"x"),)}, "messages"),
    ],
)
def test_what_the_model_cannot_take_is_refused_before_started(fields, param):
    bench = Bench()
    with pytest.raises(RequestError) as caught:
        bench.ask(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert bench.events == []
    assert bench.toy.sequences == {}
    assert bench.run(("b", "good"), max_tokens=3).keys() == {("b", 0)}


def test_a19_a_prompt_over_the_context_names_both_numbers():
    with pytest.raises(RequestError, match=r"600.*512"):
        Bench().ask(prompt="x" * 600)


def test_a_text_far_over_the_context_is_not_even_tokenized():
    bench = Bench()
    bench.toy.tokenizer.encode = bench.toy.tokenizer.chat = None
    for fields in (
        {"prompt": "x" * 200_000},
        {"prompt": None, "messages": ({"role": "user", "content": "x" * 200_000},)},
    ):
        with pytest.raises(RequestError, match=r"at least 781 tokens.*512") as caught:
            bench.ask(**fields)
        assert caught.value.code == "context_length_exceeded"


def test_the_template_rejecting_a_chat_is_a_request_error():
    with pytest.raises(RequestError) as caught:
        Bench().engine.submit(GenerateRequest("a", messages=({"role": "system", "content": "x"},)))
    assert caught.value.param == "messages"


PROMPTS = [(f"r{i}", "prompt " * (i % 5 + 1) + str(i)) for i in range(12)]


def alone(prompts, **fields):
    texts = {}
    for id, prompt in prompts:
        texts |= Bench().run((id, prompt), **fields)
    return texts


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=5), Sampling(seed=5, top_p=0.8, frequency_penalty=0.3)])
def test_batch_equals_alone_in_any_order_with_requests_joining_and_leaving(sampling):
    expected = alone(PROMPTS, sampling=sampling, max_tokens=20)
    for seed in range(3):
        bench, order = Bench(parallel=3), list(PROMPTS)
        chance = random.Random(seed)
        chance.shuffle(order)
        while order or bench.engine.step():
            for _ in range(chance.randint(0, 2)):
                if order:
                    bench.ask(*order.pop(), sampling=sampling, max_tokens=20)
        assert bench.texts() == expected


def test_nothing_carries_over_from_one_request_to_the_next():
    fresh = Bench().run(("b", "question"), max_tokens=20)
    bench = Bench(parallel=1, nan="poison")
    bench.run(("p", "poison"), ("q", "question and more"), max_tokens=30)
    bench.events.clear()
    assert bench.run(("b", "question"), max_tokens=20) == fresh


def test_never_more_than_parallel_sequences_and_first_come_first_served():
    bench = Bench(parallel=3, says={prompt: "an answer" for _, prompt in PROMPTS})
    bench.run(*PROMPTS, max_tokens=8)
    assert max(n for kind, n in bench.toy.work if kind == "step") == 3
    begun = list(dict.fromkeys(c.id for c in bench.of(Chunk)))
    assert begun == [id for id, _ in PROMPTS]


@pytest.mark.parametrize("parallel", [1, 2, 8])
def test_n_sequences_come_to_the_same_whatever_fits_at_once(parallel):
    bench = Bench(parallel=parallel)
    texts = bench.run(prompt="many", n=5, sampling=Sampling(seed=1), max_tokens=10)
    assert texts == Bench(parallel=5).run(prompt="many", n=5, sampling=Sampling(seed=1), max_tokens=10)
    assert len(set(texts.values())) == 5
    assert [c.usage is not None for c in bench.of(Chunk) if c.finish] == [False] * 4 + [True]
    assert bench.of(Chunk)[-1].usage == Usage(4, sum(c.tokens for c in bench.of(Chunk)))


def test_the_shared_prompt_of_n_sequences_is_computed_once():
    bench = Bench(parallel=4)
    bench.run(prompt="x" * 40, n=4, sampling=Sampling(seed=1), max_tokens=2)
    assert sum(n for kind, n in bench.toy.work if kind != "step") == 40


def test_a_long_prompt_is_computed_in_chunks_between_the_tokens_of_others(kind):
    bench = Bench(chunk=16)
    bench.ask("short", "hi", max_tokens=30, ignore_eos=True)
    bench.engine.step()
    bench.toy.work.clear()
    bench.ask("long", "x" * 100, max_tokens=2)
    bench.finish()
    chunk = (
        [("forward", 17)]
        if kind is ToyForward
        else [("forward" if kind is ToySeparate else "prefill", 16), ("step", 1)]
    )
    assert bench.toy.work[: 6 * len(chunk)] == chunk * 6


def test_several_short_prompts_share_one_steps_chunk(kind):
    bench = Bench(chunk=16)
    for i in range(3):
        bench.ask(f"r{i}", "abcd", max_tokens=4)
    bench.engine.step()
    expected = {
        ToyEngine: [("prefill", 4)] * 3 + [("step", 3)],
        ToySeparate: [("forward", 12), ("step", 3)],
        ToyForward: [("forward", 12)],
    }
    assert bench.toy.work == expected[kind]


def test_a_prompt_that_would_only_begin_waits_for_the_next_pass(kind):
    bench = Bench(chunk=16)
    for id, prompt in (("a", "x" * 10), ("b", "y" * 10), ("c", "z" * 40)):
        bench.ask(id, prompt, max_tokens=1)
    bench.finish()
    work = [tokens for work, tokens in bench.toy.work if work != "step"]
    assert work == [10, 10, 16, 16, 8]


def test_prompts_that_come_together_share_what_they_begin_with(kind):
    bench = Bench(chunk=16)
    for id in ("a", "b"):
        bench.ask(id, "x" * 40 + id, max_tokens=1)
    bench.finish()
    assert bench.of(Chunk, "b")[-1].usage.cached == (0 if kind is ToyEngine else 40)


def test_cancel_within_a_long_prefill_ends_at_once():
    bench = Bench(chunk=16)
    bench.ask(prompt="x" * 400)
    bench.engine.step()
    bench.engine.cancel("a")
    assert bench.of(Chunk) == [Chunk("a", finish=CANCELLED, usage=Usage(400, 0))]
    assert bench.toy.sequences == {}
    assert not bench.engine.step()


def test_cancel_while_waiting_while_generating_and_unknown():
    bench = Bench(parallel=1)
    bench.ask("a", max_tokens=50, ignore_eos=True)
    bench.ask("b", max_tokens=50)
    bench.engine.step()
    bench.engine.cancel("b")
    bench.engine.cancel("nobody")
    bench.engine.cancel("a")
    bench.engine.cancel("a")
    assert bench.finishes("a") == bench.finishes("b") == [CANCELLED]
    assert bench.of(Chunk, "a")[-1].usage.completion == len(bench.of(Chunk, "a")) - 1 > 0
    assert bench.toy.sequences == {}


def test_cancel_ends_each_of_n_sequences_begun_or_not():
    bench = Bench(parallel=2)
    bench.ask(n=3, max_tokens=50, ignore_eos=True)
    bench.engine.step()
    bench.engine.cancel("a")
    assert sorted(c.index for c in bench.of(Chunk) if c.finish == CANCELLED) == [0, 1, 2]
    assert [c.usage is not None for c in bench.of(Chunk) if c.finish] == [False, False, True]


def test_the_time_cap_counts_from_the_first_work_on_a_request():
    now = [0.0]
    bench = Bench(parallel=1, clock=lambda: now[0])
    bench.ask("a", time_cap=5, ignore_eos=True)
    bench.ask("b", time_cap=5, ignore_eos=True)
    bench.engine.step()
    now[0] = 4.9
    bench.engine.step()
    assert bench.finishes() == []
    now[0] = 5.0
    bench.engine.step()
    assert bench.finishes() == [TIME]
    now[0] = 9.9
    bench.engine.step()
    assert bench.finishes("b") == []
    now[0] = 10.0
    bench.engine.step()
    assert bench.finishes("b") == [TIME]


def test_a_prompt_that_cannot_be_computed_fails_alone():
    bench = Bench(broken="bad")
    texts = bench.run(("a", "good"), ("b", "bad one"), ("c", "fine"), max_tokens=10)
    assert texts == alone([("a", "good"), ("c", "fine")], max_tokens=10)
    assert [f.id for f in bench.of(Failure)] == ["b"]
    assert bench.of(Failure)[0].error["code"] == "out_of_memory"


def test_nan_logits_fail_their_own_request_and_no_other():
    for sampling in (GREEDY, Sampling(seed=1)):
        bench = Bench(nan="bad")
        texts = bench.run(("a", "good"), ("b", "bad"), ("c", "fine"), max_tokens=10, sampling=sampling)
        expected = alone([("a", "good"), ("c", "fine")], max_tokens=10, sampling=sampling)
        assert {key: value for key, value in texts.items() if key[0] != "b"} == expected
        assert [(f.id, f.error["code"]) for f in bench.of(Failure)] == [("b", "nonfinite_logits")]
        assert bench.finishes("b") == []


def test_nan_in_one_of_n_sequences_is_one_failure():
    bench = Bench(nan="bad")
    bench.run(prompt="bad", n=3)
    assert len(bench.of(Failure)) == 1


def test_a_failing_pass_ends_those_in_it_and_the_next_request_runs(kind):
    bench = Bench(parallel=2)
    for id in ("a", "b", "c"):
        bench.ask(id, max_tokens=10)
    bench.toy.fails = 1 if kind is ToyEngine else 3  # both together, then each alone
    bench.finish()
    assert sorted(f.id for f in bench.of(Failure)) == ["a", "b"]
    assert bench.of(Failure)[0].error["message"] == "the device is gone"
    assert bench.texts()["c", 0] == Bench().run(("c", "hello"), max_tokens=10)["c", 0]


def test_a_prompt_that_begins_like_an_earlier_one_is_computed_from_there_on(kind):
    bench = Bench()
    first = bench.run(("a", "x" * 40 + "one"), max_tokens=4)
    bench.toy.work.clear()
    again = bench.run(("b", "x" * 40 + "two"), max_tokens=4)
    computed, cached = (43, 0) if kind is ToyEngine else (3, 40)
    assert sum(n for work, n in bench.toy.work if work != "step") == computed
    assert bench.of(Chunk, "b")[-1].usage.cached == cached
    kept = Bench.kind
    Bench.kind = ToyEngine
    assert {**first, **again} == alone([("a", "x" * 40 + "one"), ("b", "x" * 40 + "two")], max_tokens=4)
    Bench.kind = kept


class Letters:
    """A mask that allows only the letters a to e."""

    def __init__(self):
        self.heard = []

    def ready(self):
        return True

    def allowed(self):
        return np.isin(np.arange(VOCAB), list(b"abcde"))

    def accept(self, token):
        self.heard.append(token)


def test_each_sequence_gets_a_mask_of_its_own():
    made = []

    def mask_for(request, prompt):
        if request.id == "free":
            return None
        made.append(Letters())
        return made[-1]

    bench = Bench(mask_for=mask_for)
    texts = bench.run(prompt="hi", n=2, max_tokens=8, sampling=Sampling(seed=1))
    assert [bytes(m.heard).decode() for m in made] == [texts["a", 0], texts["a", 1]]
    assert set("".join(texts.values())) <= set("abcde")
    bench.events.clear()
    assert bench.run(("free", "hi"), max_tokens=8) == Bench().run(("free", "hi"), max_tokens=8)


def test_a_mask_that_cannot_be_made_refuses_the_request():
    def mask_for(request, prompt):
        raise RequestError("bad grammar", param="response_format")

    bench = Bench(mask_for=mask_for)
    with pytest.raises(RequestError):
        bench.ask()
    assert (bench.events, bench.toy.sequences) == ([], {})


def test_a_mask_that_raises_later_fails_its_request_and_nothing_follows():
    class Broken(Letters):
        def accept(self, token):
            raise ValueError("stuck")

    masks = [Broken(), None]
    bench = Bench(mask_for=lambda request, prompt: masks.pop(0))
    bench.run(prompt="hi", n=2)
    assert [f.error["code"] for f in bench.of(Failure)] == ["engine_failed"]
    assert isinstance(bench.events[-1], Failure)


def test_a_fork_that_fails_ends_its_request_and_leaks_nothing():
    bench = Bench()
    fork, bench.toy.fork = bench.toy.fork, None
    bench.run(prompt="hi", n=3, max_tokens=4)
    assert [f.id for f in bench.of(Failure)] == ["a"]
    bench.toy.fork = fork
    assert len(bench.run(("b", "hi"), n=3, max_tokens=4)) == 3


def test_steps_grow_with_work_and_rest_without():
    bench = Bench()
    assert not bench.engine.step()
    assert bench.engine.steps == 0
    bench.run(max_tokens=5)
    before = bench.engine.steps
    assert before >= 4
    assert not bench.engine.step()
    assert bench.engine.steps == before


def test_close_ends_what_runs_and_closes_the_engine():
    bench = Bench()
    bench.ask(ignore_eos=True)
    bench.engine.step()
    bench.engine.close()
    assert bench.finishes() == [CANCELLED]
    assert bench.toy.closed
