"""Tokenizers trained on the lessons, written as the files that a hub repository of the family has."""

from __future__ import annotations

import io
import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .families import Family, Vocabulary

PIECES = 1024
"""The size aimed at; a short text gives fewer."""
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write(folder: Path, family: Family, lines: Sequence[str]) -> int:
    """Train and write tokenizer.json, tokenizer_config.json and the family's further files; the number of ids."""
    vocabulary = family.vocabulary
    if vocabulary.kind == "sentencepiece":
        tokenizer = _sentencepiece(folder, vocabulary, lines)
    else:
        tokenizer = _byte_level(vocabulary, lines)
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {str(tokenizer.token_to_id(token.content)): _as_json(token) for token in _specials(vocabulary)}
    config = {**vocabulary.settings, "added_tokens_decoder": added, "clean_up_tokenization_spaces": False}
    config["model_max_length"] = family.context
    if family.jinja:
        (folder / "chat_template.jinja").write_text(family.template, encoding="utf-8")
    else:
        config["chat_template"] = family.template
    _write_json(folder / "tokenizer_config.json", config)
    if vocabulary.kind == "sentencepiece" and vocabulary.last:
        _write_json(folder / "added_tokens.json", {t: tokenizer.token_to_id(t) for t in vocabulary.last})
    return tokenizer.get_vocab_size()


def _sentencepiece(folder: Path, vocabulary: Vocabulary, lines: Sequence[str]) -> Any:
    """Train tokenizer.model, and make of it the `tokenizers` pipeline that llama and gemma ship beside it."""
    import sentencepiece

    names = [token.strip("<>") for token in vocabulary.first]
    ids = {name: names.index(name) if name in names else -1 for name in ("unk", "pad")}
    bos, eos = ("bos", "eos") if "bos" in names else ("s", "/s")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        add_dummy_prefix=vocabulary.prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        allow_whitespace_only_pieces=True,
        unk_id=ids["unk"],
        pad_id=ids["pad"],
        bos_id=names.index(bos),
        eos_id=names.index(eos),
        bos_piece=f"<{bos}>",
        eos_piece=f"<{eos}>",
        user_defined_symbols=[t for t in vocabulary.first if t.strip("<>") not in ("unk", "pad", bos, eos)],
        required_chars=string.ascii_letters + string.digits + string.punctuation + "\n",
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return _metaspace(vocabulary, [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())])


def _metaspace(vocabulary: Vocabulary, pieces: Sequence[str]) -> Any:
    """Byte-fallback BPE over `pieces`, which are in the order of their merging."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    rank = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for piece in pieces:
        if piece in vocabulary.first or (piece.startswith("<0x") and len(piece) == 6):
            continue
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        merges += sorted((c for c in cuts if c[0] in rank and c[1] in rank), key=lambda c: (rank[c[0]], rank[c[1]]))
    tokenizer = Tokenizer(BPE(vocab=rank, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    decoder = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if vocabulary.prefix:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        decoder.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(decoder)
    tokenizer.add_special_tokens(_specials(vocabulary))
    if vocabulary.bos:
        _add_bos(tokenizer, "<s>" if "<s>" in vocabulary.first else "<bos>")
    return tokenizer


def _byte_level(vocabulary: Vocabulary, lines: Sequence[str]) -> Any:
    """GPT-2's byte-level BPE, or Qwen's with its own split."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE())
    if vocabulary.pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(lines, BpeTrainer(vocab_size=PIECES, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens(_specials(vocabulary))
    return tokenizer


def _specials(vocabulary: Vocabulary) -> list[Any]:
    from tokenizers import AddedToken

    names = (*vocabulary.first, *vocabulary.last)
    return [AddedToken(name, special=True, normalized=False, rstrip=name in vocabulary.stripping) for name in names]


def _as_json(token: Any) -> dict[str, Any]:
    return {key: getattr(token, key) for key in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")}


def _add_bos(tokenizer: Any, bos: str) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
