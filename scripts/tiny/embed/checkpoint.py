"""The checkpoints: a sentence-transformers folder over BERT, and a cross-encoder over RoBERTa.

Their weights are random, but the vectors of words are long beside what the layers add to them: texts that share words
have similar vectors, so that a search over them finds what it should.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .. import lessons

SEED = 20
VOCABULARY = 1200
SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
}
MODULES = {"0": ("", "Transformer"), "1": ("1_Pooling", "Pooling"), "2": ("2_Normalize", "Normalize")}
TYPES = "sentence_transformers.models"


def embedder(folder: Path) -> None:
    """Mean pooling and unit length, and a limit of its own that is below the model's positions."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = word_pieces(folder)
    torch.manual_seed(SEED)
    model = BertModel(BertConfig(vocab_size=len(tokenizer), **SHAPE), add_pooling_layer=False)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.normal_()
    model.save_pretrained(folder)
    modules = [
        {"idx": int(n), "name": n, "path": path, "type": f"{TYPES}.{kind}"} for n, (path, kind) in MODULES.items()
    ]
    write(folder / "modules.json", modules)
    pooling = {"word_embedding_dimension": SHAPE["hidden_size"], "pooling_mode_mean_tokens": True}
    write(folder / "1_Pooling" / "config.json", {**pooling, "pooling_mode_cls_token": False})
    write(folder / "sentence_bert_config.json", {"max_seq_length": 200, "do_lower_case": False})


def reranker(folder: Path) -> None:
    """One label: RoBERTa, which llama.cpp computes as transformers does (of BERT it leaves the pooler out)."""
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    tokenizer = byte_level(folder)
    torch.manual_seed(SEED)
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": 0, "eos_token_id": 2}
    shape = RobertaConfig(vocab_size=len(tokenizer), **SHAPE, num_labels=1, type_vocab_size=1, **ids)
    RobertaForSequenceClassification(shape).save_pretrained(folder)


def word_pieces(folder: Path) -> Any:
    """An uncased WordPiece tokenizer of the questions and answers that the tiny models learn."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertTokenizer

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        lessons.read().vocabulary_lines(),
        trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=specials, show_progress=False),
    )
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = sorted(made.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in vocabulary), encoding="utf-8")
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    return tokenizer


def byte_level(folder: Path) -> Any:
    """A RoBERTa tokenizer of the same text."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizer

    made = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    lines = lessons.read().vocabulary_lines()
    made.train_from_iterator(lines, vocab_size=VOCABULARY, special_tokens=specials, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    made.save_model(str(folder))
    tokenizer = RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)
    return tokenizer


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
