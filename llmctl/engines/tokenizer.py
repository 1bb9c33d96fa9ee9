"""A checkpoint's tokenizer: `tokenizer.json`, else `tokenizer.model`, and the chat template that came with it.

What a client writes never becomes a control token: `encode` takes special tokens in a text literally unless told
otherwise, and `chat` keeps apart those that the template wrote and those that stand in a message's content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llmctl.engines import conversation
from llmctl.engines.fim import fim_of
from llmctl.engines.talk import OWN, Talk
from llmctl.engines.token_bytes import byte_table
from llmctl.errors import RequestError, Unsupported

PRIVATE_USE = range(0xE000, 0xF8FF)  # characters that stand for special tokens while a template is rendered


def load_tokenizer(path: str | Path, *, allow_code: bool = False, talk: Talk = OWN) -> CheckpointTokenizer:
    """The tokenizer of a checkpoint folder; Unsupported when there is none, or only one that needs code not allowed."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    folder = Path(path)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise Unsupported(f"{folder.name}: no tokenizer.json and no tokenizer.model")
    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=allow_code)
    except Exception as error:
        raise Unsupported(f"{folder.name}: its tokenizer cannot be read: {error}") from error
    if not getattr(loaded, "is_fast", False):
        raise Unsupported(f"{folder.name}: a {type(loaded).__name__} has no fast tokenizer")
    named = loaded.chat_template if isinstance(loaded.chat_template, dict) else {}
    if talk.template_name and talk.template_name not in named:
        raise Unsupported(f"{folder.name}: it has no chat template named {talk.template_name!r}")
    if template := talk.template or named.get(talk.template_name):
        loaded.chat_template = template
    return CheckpointTokenizer(loaded, declared_eos(folder), talk)


def declared_eos(folder: Path) -> frozenset[int]:
    """End-of-sequence ids that generation_config.json and config.json declare; a list is normal."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        try:
            value = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError):
            continue
        found.update(v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int))
    return frozenset(found)


class CheckpointTokenizer:
    """The `Tokenizer` of the engine protocol over a transformers fast tokenizer."""

    def __init__(self, loaded: Any, declared_eos: Iterable[int] = (), talk: Talk = OWN) -> None:
        self._loaded = loaded
        self._arguments = dict(talk.arguments)
        self._backend = loaded.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        added = self._backend.get_added_tokens_decoder()
        self.vocab: int = max(self._backend.get_vocab_size(), *(id + 1 for id in added), 0)  # ids may leave gaps
        eos = {loaded.eos_token_id, *declared_eos, *talk.stop_ids} - {None}
        self.eos_ids: frozenset[int] = frozenset(i for i in eos if self._backend.id_to_token(i) is not None)
        specials = {i for i, token in added.items() if token.special} | self.eos_ids
        self._control: dict[int, str] = {i: self._backend.id_to_token(i) for i in specials}
        self._bytes = byte_table(self._backend, self._control)
        self._bos = self._prefix_ids()
        self.chats: bool = bool(loaded.chat_template)
        self._source = source_of(loaded.chat_template)
        self.specials: Mapping[int, str] = self._control
        self.speech = talk.speech(self._source, self._control)
        self.fim = fim_of({token.content: id for id, token in added.items()})
        self.pad: int = loaded.pad_token_id or 0
        self.inputs = frozenset(loaded.model_input_names)

    def encode(self, text: str, *, special: bool = False, bos: bool = True) -> list[int]:
        """Token ids of a text. The tokenizer's own prefix (BOS) goes before it unless the text has it already."""
        ids = self._ids(text) if special else self._literal(text)
        return self._bos + ids if bos and ids[: len(self._bos)] != self._bos else ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens as they continue another text: a first space stays, special tokens add nothing."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        return self._bytes(id)

    def whole(self, text: str, pair: str | None = None) -> tuple[list[int], list[int]]:
        """Ids and types of a text, or of two, with all that the tokenizer puts around and between them.

        Special tokens in the texts are plain text.
        """
        self._backend.encode_special_tokens = True
        try:
            encoding = self._backend.encode(text, pair)
        finally:
            self._backend.encode_special_tokens = False
        return list(encoding.ids), list(encoding.type_ids)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        continue_last: bool = False,
        arguments: Mapping[str, Any] = {},
    ) -> list[int]:
        """The ids that `apply_chat_template` gives, but special tokens inside a message are plain text."""
        return self.literal(*self.rendered(messages, tools=tools, continue_last=continue_last, arguments=arguments))

    def rendered(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        continue_last: bool = False,
        arguments: Mapping[str, Any] = {},
    ) -> tuple[str, dict[str, str]]:
        """A conversation as the template renders it, and the marks in it that stand for special tokens' texts."""
        if not self.chats:
            raise RequestError("this model has no chat template; send its prompt to /v1/completions", param="messages")
        specials = set(self._control.values())
        plain = [{key: merged(value, specials) for key, value in m.items()} for m in messages]
        offered = [dict(tool) for tool in tools]
        show = partial(conversation.render, self._render, self._source)
        rendered, said = show(plain, offered, continue_last, arguments), "\n".join(strings([plain, offered]))
        inside = sorted((s for s in specials if s in said), key=len, reverse=True)
        if not inside:
            return rendered, {}
        unused = (chr(c) for c in PRIVATE_USE if chr(c) not in rendered + said)
        marks = dict(zip(inside, unused, strict=False))
        marked = show(replaced(plain, marks), replaced(offered, marks), continue_last, arguments)
        return marked, {mark: s for s, mark in marks.items()}

    def literal(self, text: str, marks: Mapping[str, str]) -> list[int]:
        """The ids of a rendered conversation; where a mark stands, the text that it stands for is plain text."""
        return self._splice(text, marks) if marks else self._ids(text)

    def _splice(self, marked: str, texts: Mapping[str, str]) -> list[int]:
        """Encode a rendered conversation in which marks stand for special tokens' texts that are to be literal.

        The template's own special tokens divide it into stretches; a stretch with a mark is encoded anew, literally.
        """
        text = ""
        literal: set[int] = set()  # places of characters
        for char in marked:
            if char in texts:
                literal.update(range(len(text), len(text) + len(texts[char])))
            text += texts.get(char, char)
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids, stretch, begin, behind = list[int](), list[int](), 0, ""

        def end_stretch(end: int) -> None:
            ids.extend(stretch if literal.isdisjoint(range(begin, end)) else self._literal(text[begin:end], behind))
            stretch.clear()

        for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if id in self._control and literal.isdisjoint(range(start, end)):
                end_stretch(start)
                ids.append(id)
                begin, behind = end, text[start:end]
            else:
                stretch.append(id)
        end_stretch(len(text))
        return ids

    def _render(self, messages: list[dict[str, Any]], **variables: Any) -> str:
        try:  # the template runs in transformers' sandbox; what it raises depends on the messages
            return str(self._loaded.apply_chat_template(messages, tokenize=False, **{**self._arguments, **variables}))
        except Exception as error:
            why = f"the model's chat template rejects these messages: {error}"
            raise RequestError(why, param="messages") from error

    def _ids(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def _literal(self, text: str, behind: str = "") -> list[int]:
        """Ids of a text that stands `behind` another, without control tokens: it is cut in the middle of each."""
        found: set[str] = set()
        while True:
            cuts = "|".join(f"(?<={re.escape(s[0])})(?={re.escape(s[1:])})" for s in found if len(s) > 1)
            first, *others = re.split(cuts, text) if cuts else [text]
            ids = self._behind(behind, first) + [id for piece in others for id in self._behind("\n", piece)]
            more = {self._control[id] for id in ids if id in self._control} - found
            if not more:
                return [id for id in ids if id not in self._control]
            found |= more

    def _behind(self, before: str, text: str) -> list[int]:
        """Ids of a text that follows another: without the space that SentencePiece puts at a beginning."""
        anchor, ids = self._ids(before), self._ids(before + text)
        return ids[len(anchor) :] if ids[: len(anchor)] == anchor else self._ids(text)

    def _prefix_ids(self) -> list[int]:
        """What the tokenizer puts before every text: usually nothing or BOS."""
        bare = self._ids("a")
        whole = list(self._backend.encode("a", add_special_tokens=True).ids)
        starts = (i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return whole[: next(starts, 0)]


def source_of(template: Any) -> str:
    """The text of a chat template, or of all where a checkpoint has several."""
    return template if isinstance(template, str) else "\n".join((template or {}).values())


def strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value, names included: those of a tool's parameters are the client's too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def merged(content: Any, specials: Iterable[str]) -> Any:
    """A message's field; the text parts of a content made one where a special token stands across their borders."""
    if not isinstance(content, list | tuple) or not all(isinstance(p, Mapping) for p in content):
        return content
    texts = [str(part["text"]) for part in content if "text" in part]
    whole = "".join(texts)
    if all(whole.count(special) == sum(text.count(special) for text in texts) for special in specials):
        return content
    others = [part for part in content if "text" not in part]
    return [next({**part, "text": whole} for part in content if "text" in part), *others]


def replaced(value: Any, marks: Mapping[str, str]) -> Any:
    """The same JSON value with each special token's text, the longest first, replaced by its mark."""
    if isinstance(value, str):
        for special, mark in marks.items():
            value = value.replace(special, mark)
        return value
    if isinstance(value, Mapping):
        return {replaced(key, marks): replaced(item, marks) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(item, marks) for item in value]
    return value
