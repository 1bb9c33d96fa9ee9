"""Three clients of other people's that ask all handles of a gateway until stdin ends; a line of JSON for each answer.

python keep_asking.py URL. Nothing is tried a second time. What is `single` streams: a stream that has begun cannot go
on elsewhere, and the slot behind that handle is swapped, not killed.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

from anthropic import Anthropic
from ollama import Client
from openai import OpenAI

WHO: Any = [{"role": "user", "content": "Who?"}]
SINGLE, HANDLES = "single", ("twins", "single", "seldom")
WAIT = 60
Ask = Callable[[str], str]
"""Asks a handle; the text that it answered, an error where it is not whole."""


def openai(url: str) -> Ask:
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=WAIT)

    def ask(handle: str) -> str:
        if handle != SINGLE:
            found = client.chat.completions.create(model=handle, messages=WHO, max_completion_tokens=8)
            return str(found.choices[0].message.content)
        text, reason = "", None
        for chunk in client.chat.completions.create(model=handle, messages=WHO, max_completion_tokens=8, stream=True):
            for choice in chunk.choices:
                text, reason = text + (choice.delta.content or ""), choice.finish_reason or reason
        assert reason, "the stream has no end"
        return text

    return ask


def anthropic(url: str) -> Ask:
    client = Anthropic(base_url=url, api_key="none", max_retries=0, timeout=WAIT)

    def ask(handle: str) -> str:
        if handle != SINGLE:
            found = client.messages.create(model=handle, messages=WHO, max_tokens=8)
        else:
            with client.messages.stream(model=handle, messages=WHO, max_tokens=8) as stream:
                found = stream.get_final_message()
        assert found.stop_reason, "the answer has no end"
        return "".join(block.text for block in found.content if block.type == "text")

    return ask


def ollama(url: str) -> Ask:
    client = Client(host=url, timeout=WAIT)

    def ask(handle: str) -> str:
        if handle != SINGLE:
            return str(client.chat(model=handle, messages=WHO).message.content)
        chunks = list(client.chat(model=handle, messages=WHO, stream=True))
        assert chunks[-1].done, "the stream has no end"
        return "".join(chunk.message.content or "" for chunk in chunks)

    return ask


def main(url: str) -> None:
    over, lock = threading.Event(), threading.Lock()

    def keep_asking(client: str, ask: Ask, handle: str) -> None:
        while not over.is_set():
            said = {"client": client, "handle": handle}
            try:
                said["text"] = ask(handle)
            except Exception as error:
                said["failed"] = repr(error)
            with lock:
                print(json.dumps(said), flush=True)
            over.wait(0.2)

    made = {one.__name__: one(url) for one in (openai, anthropic, ollama)}
    asked = [(name, ask, handle) for name, ask in made.items() for handle in HANDLES]
    threads = [threading.Thread(target=keep_asking, args=one) for one in asked]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1])
