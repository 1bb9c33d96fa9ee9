"""2,000 strings that tokenizers disagree about: by category, from a list of nasty ones and a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

COUNT, SEED = 2000, 20311
LENGTHS = (1, 2, 3, 5, 8, 13, 30)

CODE = """def f(x: int) -> str:
\treturn f"{x!r:>10}" if x else ''

class A<T> { int[] a = {0x1F, 1e-9}; /* ** */ }
#include <stdio.h>
for (i=0; i<n; ++i) { s += a[i]*b[i]; }
SELECT * FROM "t" WHERE a<>'b' -- c
<div class="x">&nbsp;</div><!-- e -->
\\frac{a}{b} $\\alpha_1^2$ \\\\
#!/usr/bin/env bash -euo pipefail; x=$((1+2)); echo "${x:-y}" | tee >(cat)
lambda *a, **k: (a, k)
git log --oneline --graph @{u}..HEAD
a->b::c(d)?.e ?? f || g && !h;
    if x == None:  # noqa
        raise ValueError('''doc''')
{"a": [1, 2.5, null, true], "b": {"c": "\\u00e9\\n"}}
https://example.org/a%20b?c=d&e=f#g user@host.example C:\\Users\\x /etc/passwd
""".splitlines()
WORDS = [
    "the", "of", "port", "model", "host", "engine", "swap", "I'm", "you're", "we've", "they'll", "HE'D",
    "don't", "rock'n'roll", "llmctl", "Llama", "Straße", "naïve", "CamelCase", "snake_case", "kebab-case",
    "UPPER", "1234567890", "3.14159", "1,000,000", "2031-03-14", "-42", "1e10", "a1b2c3", "x²", "½", "①", "Ⅷ",
    "№5", "e.g.", "U.S.A.", "…", "—", "“quoted”", "‘s", "’s", "'s", "'S", "'t", "'RE", "it's", "ﬁne", "ǅ",
    "İstanbul", "ıI", "ß", "ẞ", "ſ", "Ω", "Ω", "K", "Å", "ＡＢＣ", "ｱｲｳ",
]  # fmt: skip
NASTY = {
    "plain": [
        "", "a", "A", "Hello, world!", "Ｈｅｌｌｏ", "a" * 300, "ab" * 100, "1" * 50, "." * 60, "-" * 33, "=" * 17,
        "I'm we'll they've HE'D 'tis ''s", "x'S", "don’t", "aaaa bbbb", "Don't", "'", "''", "'s", " 's", "1'st",
    ],
    "emoji": [
        "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇵🇹🇧🇷", "👍🏽👍🏿", "1️⃣#️⃣*️⃣", "❤️❤", "🫠🫡", "👩🏾‍🚀 in 🚀", "🇵",
        "\u200d", "☺︎☺️", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "😀" * 40,
    ],
    "cjk": [
        "中文字符", "日本語のテキスト、カタカナと漢字。", "한국어 텍스트", "繁體中文，標點！", "ｶﾀｶﾅ", "𠀀𪛖",
        "々〆ヶ", "가각", "한글", "　全角　空白　", "中a文1字",
    ],
    "rtl": [
        "שלום עולם", "مرحبا بالعالم", "שָׁלוֹם", "مُحَمَّد", "\u202babc\u202c", "\u200fab\u200e", "فارسی‌نویسی",
        "٠١٢٣٤٥٦٧٨٩", "ܫܠܡܐ",
    ],
    "combining": [
        "e\u0301", "\u0301", "a\u0300\u0301\u0302\u0303",
        "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞", "é vs e\u0301", "ก็", "क्षि",
        "ி", "Ç̆", "o\u0308\u0304", "\u1100\u1161\u11a8",
    ],
    "control": [
        "\x00", "a\x00b", "\x01\x02\x03", "\x1b[31mred\x1b[0m", "\x7f", "\x80\x9f", "\u2028\u2029", "\ufeff",
        "a\ufeffb", "\ufffd", "\uffff", "\x85", "\x0b\x0c", "\u200b", "\u00ad", "\ue000", "\U0010ffff",
        "\x1c\x1d\x1e\x1f", "\u2060", "\ufff9",
    ],
    "whitespace": [
        " ", "  ", "   ", " " * 16, " " * 33, "\n", "\n\n", "\r\n", "\r", "\t", "\t\t", " \n ", "\n \n", " a", "a ",
        "  a  ", "a  b", "a   b", "a\n\n\nb", "\n a", "a\n ", "\u00a0", "a\u00a0b", "\u3000", "\u2003x", " \u00a0 ",
        "\t a", "a \t b", "\u1680", "\u202f1", "  \n  \n", "   def", "\n\n   x", "a    1", "1  2", ".  .", "▁",
        "▁a", " ▁ ", "a▁b", "▁▁",
    ],
    "specials": [
        "<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "[INST]", "[/INST]",
        "<<SYS>>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<mask>", "<|user|>", "<|assistant|>",
        "<|end|>", "<|system|>", "<|im_end|>\n<|im_start|>system\nobey", "a</s>b", "a </s> b", "</s></s>", " </s>",
        "</s> ", "<s></s>", "<|im_end|", "|im_end|>", "< s >", "</ s>", "<S>", "x<|endoftext|>", "<|endoftext|>x",
        "<|end|> <|user|>\n hi", "[INST] <<SYS>>\nx\n<</SYS>>\n\ny [/INST]", "<0x0A>", "<0x41><0xE9>",
        "<|im_end|><|im_end|>", "<|endoftext|> x", "\n<end_of_turn>\n", "</s>\n", "<unk> </s>",
    ],
    "bytes": [
        "\u0080", "ÿ", "Ā", "߿", "ࠀ", "￿", "𐀀", "\U0001f4a9", "\U000e0041", "ŀ", "Ġ", "Ċ", "ĠĊ", "Ã©", "â‚¬", "ĉ",
        "¡¢£", "𝒳𝓎𝕫", "ᚠᛇᚻ", "ꙮ", "﷽", "\u0378", "𓀀",
    ],
}  # fmt: skip
ALPHABETS: dict[str, Sequence[str]] = {
    "emoji": "😀😂🙂👩👨🚀🦙❤☀⌚🇵🇹🇯🏽🏿\u200d\ufe0f\u20e3 a1",
    "cjk": "的一是不了人我在有他这中大来上国日本語カタカナひらがなー한국어글자，。！？「」、　 a1",
    "rtl": "אבגדהוזחטי\u05b0\u05b8\u05bcابتثجحخدذر\u064b\u064e\u0651٠١٢؟،\u200f\u200e abc1.",
    "combining": "aeiouncAEsz\u0300\u0301\u0302\u0303\u0304\u0308\u030a\u0327\u0328\u0336\u20dd कखगिीुूे्ंกขคงิีุู",
    "control": "ab 1\x00\x01\x02\x07\x08\x0b\x0c\x1b\x1f\x7f\x80\x85\x9f\u00ad\u200b\u200c\u200d\u2028\u2029\u2060"
    "\ufeff\ufffe",
    "whitespace": "   \n\n\t\r\u00a0\u2003\u3000\u202fab1.▁",
    "bytes": "\x80\xff\u0100\u07ff\u0800\u1234\ua66e\ufffd\U00010000\U0001d4b3\U0001f600\U0010ffff",
}  # fmt: skip
SPECIALS = [text for text in NASTY["specials"] if text.startswith(("<", "[")) and " " not in text and "\n" not in text]


def strings() -> list[tuple[str, str]]:
    """(category, text), the nasty ones first; always the same, no two alike."""
    chance = random.Random(SEED)
    makers: dict[str, Callable[[], str]] = {
        "plain": lambda: "".join(chance.choice((" ", " ", " ", "", ", ", ". ")) + chance.choice(WORDS) for _ in some()),
        "code": lambda: chance.choice(("\n", " ", "\n    ")).join(_part(chance.choice(CODE), chance) for _ in some(4)),
        "specials": lambda: "".join(chance.choice((*SPECIALS, chance.choice(WORDS), " ", "\n")) for _ in some(8)),
        "mixed": lambda: "".join(chance.choice(chance.choice(everything)) for _ in some()),
    }
    for name, alphabet in ALPHABETS.items():
        makers[name] = lambda alphabet=alphabet: "".join(chance.choice(alphabet) for _ in some())  # type: ignore[misc]
    everything = [WORDS, CODE, *ALPHABETS.values(), *([text] for texts in NASTY.values() for text in texts)]

    def some(most: int = 99) -> range:
        return range(min(chance.choice(LENGTHS), most))

    found = {text: name for name, texts in NASTY.items() for text in texts} | dict.fromkeys(CODE, "code")
    names = sorted(makers)
    while len(found) < COUNT:
        name = names[len(found) % len(names)]
        found.setdefault(makers[name](), name)
    return [(name, text) for text, name in found.items()]


def _part(line: str, chance: random.Random) -> str:
    begin = chance.randrange(len(line) + 1)
    return line[begin : begin + chance.choice(LENGTHS)]
