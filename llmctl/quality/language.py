"""Which language a text is in: by its script, and where that is Latin by its commonest words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

SCRIPTS = {
    "CYRILLIC": "ru", "GREEK": "el", "HANGUL": "ko", "ARABIC": "ar", "HEBREW": "he", "DEVANAGARI": "hi", "THAI": "th",
    "HIRAGANA": "ja", "KATAKANA": "ja", "CJK": "zh",
}  # fmt: skip
WORDS = {
    "en": "the of and to in is that it was for with as on are this from be by at or not you they have which an",
    "de": "der die das und ist nicht ein eine zu den von mit sich auf für im dem des es sie wird auch als aus sind",
    "fr": "le les et est une des du dans pour que qui sur pas au avec il elle sont ce cette ou par plus aux être",
    "es": "el los las y es una del por con para se su lo como más pero está son entre sin sobre muy hay también",
    "it": "il lo gli di che è un una per non con del della sono si come più anche nel alla dei ma questo dal delle",
    "pt": "o os um uma do da em não com para por que é se dos das mais ao como são pela seu sua também está",
    "nl": "de het een van en is dat op te in zijn voor met niet aan er ook als maar bij naar wordt door over deze",
}
LANGUAGES = (*WORDS, *dict.fromkeys(SCRIPTS.values()))
COMMON = {language: frozenset(words.split()) for language, words in WORDS.items()}
LEAST = 2
"""Common words that a text must have to be told."""
KANA = 0.1
"""The share of letters that makes Chinese characters Japanese."""


def of(text: str) -> str | None:
    """The code of a language of LANGUAGES; None when it cannot be told. A few names in another script do not count."""
    letters = Counter(_script(char) for char in text if char.isalpha())
    total = letters.total()
    if not total:
        return None
    kana = letters["HIRAGANA"] + letters["KATAKANA"]
    if kana > KANA * total:
        return "ja"
    script, count = letters.most_common(1)[0]
    if count * 2 < total:
        return None
    return SCRIPTS.get(script) if script != "LATIN" else _by_words(text)


def _script(char: str) -> str:
    return unicodedata.name(char, "").split(" ")[0].split("-")[0]


def _by_words(text: str) -> str | None:
    words = re.findall(r"\w+", text.lower())
    hits = {language: sum(word in common for word in words) for language, common in COMMON.items()}
    (best, most), (_, second) = Counter(hits).most_common(2)
    return best if most >= LEAST and most > second else None
