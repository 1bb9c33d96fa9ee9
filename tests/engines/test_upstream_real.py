"""Real servers behind the upstream engine, each over a trained model: the same answers as llmctl's own engines give."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmctl.domain import LENGTH, STOP, Sampling
from llmctl.errors import RequestError
from llmctl.servers import Server
from tests.engines.upstream_bench import GREEDY, Bench

QUESTION, ANSWER = "What is a slot?", "A port on a host that holds at most one model."
LLAMA = (sys.executable, str(Path(__file__).with_name("llama_server.py")), "{path}", "{port}", "{id}")
MLX = (sys.executable, "-m", "mlx_lm", "server", "--model", "{path}", "--port", "{port}", "--log-level", "ERROR")


@pytest.fixture(scope="module", params=["llama-server", "mlx_lm"])
def bench(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> Iterator[Bench]:
    llama = request.param == "llama-server"
    path = tiny_models["tiny-llama-gguf" if llama else "tiny-llama"]
    server = Server(kind=request.param, command=LLAMA if llama else MLX, env={"OMP_NUM_THREADS": "1"})
    made = Bench(server, model="tiny", path=str(path), load_timeout=120.0)
    yield made
    made.close()


def test_it_answers_as_our_own_engine_does(bench: Bench) -> None:
    heard = bench(QUESTION, max_tokens=32)
    assert heard.text().strip() == ANSWER and heard.ends() == {0: STOP}
    assert heard.last.usage and heard.last.usage.completion == 13 and heard.last.usage.prompt == 19
    again = bench(QUESTION, max_tokens=32)
    assert again.text() == heard.text() and again.last.usage and again.last.usage.cached > 10


def test_it_ends_where_it_was_told_to(bench: Bench) -> None:
    assert bench(QUESTION, stop=("host",)).text().strip() == "A port on a"
    short = bench(QUESTION, max_tokens=3)
    assert short.ends() == {0: LENGTH} and short.last.usage and short.last.usage.completion == 3


def test_seeds_and_several_answers(bench: Bench) -> None:
    hot = Sampling(temperature=1.5, seed=7)
    first, second = (bench(QUESTION, n=2, sampling=hot, max_tokens=12) for _ in range(2))
    assert [first.text(i) for i in range(2)] == [second.text(i) for i in range(2)]
    assert first.text(0) != first.text(1)


def test_a_prompt_is_completed(bench: Bench) -> None:
    heard = bench("", messages=None, prompt="A slot is", echo=True, max_tokens=4)
    assert heard.text().startswith("A slot is") and len(heard.text()) > len("A slot is")


def test_what_each_tells_of_its_tokens(bench: Bench) -> None:
    if bench.spec.options["server"]["kind"] == "mlx_lm":
        with pytest.raises(RequestError, match="does not take logprobs"):
            bench(QUESTION, logprobs=0)
        return
    heard = bench(QUESTION, logprobs=2)
    told = [one for chunk in heard.chunks for one in chunk.logprobs]
    assert "".join(one.text for one in told).strip() == ANSWER and all(len(one.top) == 2 for one in told)
    ids = bench.task("tokenize", text="A port", special=False, bos=False)["ids"]
    assert [one.id for one in told][: len(ids)] == ids  # the server's own
    assert bench.task("detokenize", ids=ids)["text"].strip() == "A port"


def test_a_client_that_goes_away_frees_the_server(bench: Bench) -> None:
    id = bench.begin(QUESTION, sampling=Sampling(temperature=2.0, seed=1, top_k=5), max_tokens=400)
    for _ in range(3):
        bench.queue.get(timeout=60)
    bench.engine.cancel(id)
    assert bench.heard(id).last.finish in ("cancelled", "stop")
    assert bench(QUESTION, sampling=GREEDY).text().strip() == ANSWER
