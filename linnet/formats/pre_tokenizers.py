"""How byte-level BPE splits a text before merging: a name in GGUF, regular expressions in ``tokenizer.json``.

One table for all: ``scripts/pre_tokenizers.py`` writes that of the core from it. The names are those of
llama.cpp, the patterns those of the models' own ``tokenizer.json`` files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # of ByteLevel
DIGITS = r"[\p{N}\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}]"  # N of Unicode 17.0
PUNCTUATION = r"[\p{P}$+<=>^~|`]+"

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LINES = r"[^\n]+|[\n]+"


def _words(numbers: str) -> str:
    return rf"{_LEAD}\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"


def _cased_words(numbers: str) -> str:
    return (
        rf"{_LEAD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_LEAD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
        rf"|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    )


_LLAMA3 = _CONTRACTIONS + "|" + _words(r"\p{N}{1,3}")
_QWEN2 = _CONTRACTIONS + "|" + _words(r"\p{N}")
_QWEN35 = rf"{_CONTRACTIONS}|{_LEAD}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
_GPT4O = _cased_words(r"\p{N}{1,3}")
_TEKKEN = (
    rf"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_SEED_CODER = rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_BAILING = (
    rf"'(?i:[sdmt]|ll|ve|re)|{_LEAD}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_EXAONE_MOE = (
    rf"{_CONTRACTIONS}|{_LEAD}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
_JAIS2 = (
    rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)"
    r"|\s{4}(?!\S)|\s{1,2}(?!\S)|\s"
)
_PORO = r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+"
_DEEPSEEK_LETTERS = (
    r"\s?["
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}"
    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}"
    r"\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}"
    r"\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}"
    r"\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}"
    r"\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}"
    r"\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}"
    r"\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}"
    r"\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}"
    r"\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}"
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}"
    r"\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}"
    r"\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}"
    r"\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}"
    r"]+"
)
_DEEPSEEK_PUNCTUATION = r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+"
_DEEPSEEK_CJK = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+"
_HAN_KANA = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"
_WORDS_WITH_MARKS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+"
)


def byte_level(use_regex: bool) -> dict[str, Any]:
    """The pre-tokenizer or decoder of that name, with all its settings."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


@dataclass(frozen=True)
class PreTokenizer:
    """A way to split. Each pattern splits what the one before it has left over."""

    names: tuple[str, ...]  # of tokenizer.ggml.pre; the first is written
    patterns: tuple[str, ...]
    nfc: bool = False  # the text is normalised first
    ignore_merges: bool = False  # what is a token is not merged
    add_bos: bool = False  # where the file does not say

    def steps(self, add_prefix_space: bool = False) -> list[dict[str, Any]]:
        """The pre-tokenizers of ``tokenizer.json``, in the order in which they are applied."""
        *first, last = self.patterns
        splits = [_step(pattern) for pattern in (first if last == GPT2 else self.patterns)]
        return [*splits, {**byte_level(use_regex=last == GPT2), "add_prefix_space": add_prefix_space}]

    def parts(self, add_prefix_space: bool = False) -> dict[str, Any]:
        """What a ``tokenizer.json`` says of it, and how its tokens become text again."""
        steps = self.steps(add_prefix_space)
        return {
            "normalizer": {"type": "NFC"} if self.nfc else None,
            "pre_tokenizer": steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps},
            "decoder": byte_level(True),
        }


def _step(pattern: str) -> dict[str, Any]:
    if pattern == DIGITS:
        return {"type": "Digits", "individual_digits": True}
    if pattern == PUNCTUATION:
        return {"type": "Punctuation", "behavior": "Contiguous"}
    spelt_out = re.sub(r"\\x\{([0-9A-F]+)\}", lambda found: chr(int(found[1], 16)), pattern)
    return {"type": "Split", "pattern": {"Regex": spelt_out}, "behavior": "Isolated", "invert": False}


def _row(names: str, *patterns: str, **more: bool) -> PreTokenizer:
    return PreTokenizer(tuple(names.split()), patterns, **more)


PRE_TOKENIZERS = (
    _row(
        "gpt-2 gpt2 phi-2 mpt jais trillion granite-docling jina-v1-en jina-v2-code jina-v2-de jina-de "
        "jina-v2-es jina-es roberta-bpe exaone4 mellum gigachat a.x-4.0 default",
        GPT2,
    ),
    _row("olmo modern-bert", GPT2, nfc=True),
    _row("command-r", DIGITS, GPT2, nfc=True),
    _row("smollm starcoder refact codeshell exaone minerva-7b mellum2", DIGITS, GPT2),
    _row(
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral lfm2 midm-2.0 jina-v5-nano",
        _LLAMA3,
        ignore_merges=True,
        add_bos=True,
    ),
    _row("smaug-bpe dbrx chatglm-bpe", _LLAMA3),
    _row("glm4 glm5", _LLAMA3, ignore_merges=True),
    _row("minicpm5", r"\p{N}{1,3}", _CONTRACTIONS + "|" + _words(r"\p{N}+"), ignore_merges=True),
    _row("jais-2", _JAIS2),
    _row("qwen2 f2llmv2", _QWEN2, nfc=True),
    _row("deepseek-r1-qwen stablelm2 hunyuan megrez kormo solar-open grok-2", _QWEN2),
    _row("qwen35", _QWEN35, nfc=True),
    _row("ufakzeka", _words(r"\p{N}")),
    _row("laguna", _LINES, _QWEN2),
    _row("seed-coder", _SEED_CODER),
    _row("bailingmoe bailingmoe2 llada-moe", _BAILING),
    _row("exaone-moe", _EXAONE_MOE),
    _row("gpt-4o llama4 kanana2 talkie minimax-m2", _GPT4O),
    _row("granite-embed-multi-97m", _GPT4O, ignore_merges=True),
    _row("tekken", _TEKKEN, ignore_merges=True, add_bos=True),
    _row("falcon", PUNCTUATION, GPT2, "[0-9][0-9][0-9]"),
    _row("deepseek-llm", r"[\r\n]", _DEEPSEEK_LETTERS, _DEEPSEEK_PUNCTUATION, r"\s+$", _DEEPSEEK_CJK, DIGITS),
    _row("deepseek-coder", r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CJK, DIGITS),
    _row(
        "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
        r"\p{N}{1,3}",
        _HAN_KANA,
        rf"{_WORDS_WITH_MARKS}[\r\n]*|{_SPACES}",
    ),
    _row("spark2_5", r"\p{N}{1,3}", _HAN_KANA, rf"{_WORDS_WITH_MARKS}|[\r\n]|\s+(?!\S)|\s+", r"\p{N}"),
    _row("poro-chat bloom gpt3-finnish", _PORO),
    _row("viking", _PORO, r"\p{N}"),
    _row(
        "chameleon",
        r"<sentinel:[0-9]+>",
        r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
        r"([\t\n]|    |  )",
        r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]",
        GPT2,
        add_bos=True,
    ),
)
UNNAMED_PRE = "default"  # llama.cpp's word for a way of splitting it has no name for
BY_NAME = {name: row for row in PRE_TOKENIZERS for name in row.names if name != UNNAMED_PRE}
_COSMETIC = ("trim_offsets",)  # changes the offsets of tokens, not the tokens


def name_of(steps: Iterable[Mapping[str, Any]], nfc: bool, ignore_merges: bool) -> str:
    """What GGUF calls the pre-tokenizers of a ``tokenizer.json`` that normalises and merges as it says.

    Where only the splitting is known, that decides; UNNAMED_PRE where it is not.
    """
    bare = [_bare(step) for step in steps]
    same = [row for row in PRE_TOKENIZERS if [_bare(step) for step in row.steps()] == bare]
    rest = (nfc, ignore_merges)
    best = next((row for row in same if (row.nfc, row.ignore_merges) == rest), same[0] if same else None)
    return best.names[0] if best else UNNAMED_PRE


def _bare(step: Mapping[str, Any]) -> dict[str, Any]:
    bare = {key: value for key, value in step.items() if key not in _COSMETIC}
    if step.get("type") == "ByteLevel":
        bare.setdefault("use_regex", True)  # files older than the setting
    return bare
