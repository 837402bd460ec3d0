"""Random steps around random models give the ids of the ``tokenizers`` library, whatever is combined."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tokenizers

from linnet.engine.tokenizer import Tokenizer
from linnet.errors import UnsupportedError

PIECES = [
    *"abcABC  ..,!?'-_0123 \n\t▁Ġ", "é", "É", "ß", "İ", "ﬁ", "中", "文", "한", "e\u0301", "\u0301", "\u200d",
    "🐦", "①", "Ⅷ", "ǆ", "\u3000", "\u00a0", "ü", "Ω", "ж", "ы", "<s>", "<pad>", "don't", "##",
]  # fmt: skip
PATTERNS = [
    r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", r"\s+", r"\d{1,3}", r"[ab]+", r"(?i:'s|'t)|\w+|.",
    r"\p{Lu}", r"\b", r"[^\r\n\p{L}\p{N}]?\p{L}+|\n", r".|\n", r"\p{P}", r"a*b+?",
]  # fmt: skip
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
PLAIN_NORMALIZERS = ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", "StripAccents"]
PLAIN_PRE_TOKENIZERS = ["Whitespace", "WhitespaceSplit", "BertPreTokenizer"]
ADDED = ["<s>", "<pad>", "ab", "é", "  ", "don't", "A", "▁", "x y", "<s>x"]
N_TEXTS = 25

Step = dict[str, Any]


class Incomparable(Exception):
    """The reference gives nothing to compare with."""


@contextlib.contextmanager
def panics_told() -> Iterator[None]:
    """Makes Incomparable of a panic, which the reference has where a pattern matches nothing at the end."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise Incomparable from None


class Maker:
    """Makes the parts of a ``tokenizer.json``, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def chance(self, share: float = 0.5) -> bool:
        return self.random.random() < share

    def text(self) -> str:
        return "".join(self.random.choices(PIECES, k=self.random.randint(0, 24)))

    def split_at(self, *texts: str) -> Step:
        return (
            {"String": self.random.choice(texts)}
            if self.chance()
            else {"Regex": self.random.choice(PATTERNS)}
        )

    def steps(self, kind: str, make: Callable[[], Step]) -> Step | None:
        """None, one step, or a sequence of them."""
        if self.chance(0.3):
            return None
        if self.chance(0.6):
            return make()
        return {"type": "Sequence", kind: [make() for _ in range(self.random.randint(1, 3))]}

    def normalizer(self) -> Step:
        kind = self.random.choice([*PLAIN_NORMALIZERS, "Replace", "Prepend", "Strip", "BertNormalizer"])
        options: Step = {}
        if kind == "Replace":
            content = self.random.choice(["▁", "", "x", " ", "ab"])
            options = {"pattern": self.split_at(" ", "a", "ab", "é", "▁", "  "), "content": content}
        elif kind == "Prepend":
            options = {"prepend": self.random.choice(["▁", "x", " "])}
        elif kind == "Strip":
            options = {"strip_left": self.chance(), "strip_right": self.chance()}
        elif kind == "BertNormalizer":
            options = {
                "clean_text": self.chance(),
                "handle_chinese_chars": self.chance(),
                "strip_accents": self.random.choice([None, True, False]),
                "lowercase": self.chance(),
            }
        return {"type": kind, **options}

    def pre_tokenizer(self) -> Step:
        others = ["ByteLevel", "Metaspace", "Punctuation", "Digits", "Split", "CharDelimiterSplit"]
        kind = self.random.choice([*PLAIN_PRE_TOKENIZERS, *others])
        options: Step = {}
        if kind == "ByteLevel":
            options = {"add_prefix_space": self.chance(), "trim_offsets": True, "use_regex": self.chance()}
        elif kind == "Metaspace":
            scheme = self.random.choice(["always", "first", "never"])
            options = {"replacement": "▁", "prepend_scheme": scheme, "split": self.chance()}
        elif kind == "Punctuation":
            options = {"behavior": self.random.choice(BEHAVIORS)}
        elif kind == "Digits":
            options = {"individual_digits": self.chance()}
        elif kind == "Split":
            behavior = self.random.choice(BEHAVIORS)
            options = {
                "pattern": self.split_at(" ", "a", "▁"),
                "behavior": behavior,
                "invert": self.chance(0.3),
            }
        elif kind == "CharDelimiterSplit":
            options = {"delimiter": self.random.choice("a _")}
        return {"type": kind, **options}

    def model(self, of_bytes: bool) -> Step:
        kind = self.random.choice(["BPE", "BPE", "Unigram", "WordPiece", "WordLevel"])
        all_characters = tokenizers.pre_tokenizers.ByteLevel.alphabet() if of_bytes else {*"".join(PIECES)}
        share = self.random.choice([0.5, 0.9, 1.0])
        characters = ["a", *(c for c in sorted(all_characters) if c != "a" and self.chance(share))]
        if kind == "BPE":
            return self.bpe(characters)
        lengths = self.random.choices(range(1, 5), k=40)
        made = ("".join(self.random.choices(characters, k=length)) for length in lengths)
        words = list(dict.fromkeys([*characters, *made]))
        if kind == "Unigram":
            scored = [[word, -self.random.randint(1, 400) / 16] for word in words]
            return {"type": kind, "unk_id": 0, "byte_fallback": False, "vocab": [["<unk>", 0.0], *scored]}
        unk = "[UNK]" if kind == "WordPiece" else "<unk>"
        if kind == "WordPiece":
            words = [word if self.chance() else "##" + word for word in words]
        vocab = {word: i for i, word in enumerate(dict.fromkeys([unk, *words]))}
        of_pieces = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 20}
        return {"type": kind, "unk_token": unk, "vocab": vocab, **(of_pieces if kind == "WordPiece" else {})}

    def bpe(self, characters: list[str]) -> Step:
        tokens, merges = list(characters), []
        for _ in range(self.random.randint(0, 40)):
            pair = self.random.choices(tokens, k=2)
            if len("".join(pair)) < 7 and "".join(pair) not in tokens:
                tokens.append("".join(pair))
                merges.append(pair)
        byte_fallback = self.chance(0.3)
        tokens += [f"<0x{i:02X}>" for i in range(256)] if byte_fallback else []
        unk = "<unk>" if self.chance() else None
        tokens += [unk] if unk else []
        vocab = {token: i for i, token in enumerate(tokens)}
        return {
            "type": "BPE", "unk_token": unk, "fuse_unk": self.chance(), "byte_fallback": byte_fallback,
            "ignore_merges": self.chance(0.3), "merges": merges, "vocab": vocab,
        }  # fmt: skip

    def added_tokens(self, known: dict[str, int], normalize: Callable[[str], str]) -> list[Step]:
        """Some added tokens; of those that are looked for in normalized text, such as it does not change."""
        added: list[Step] = []
        for text in self.random.sample(ADDED, self.random.randint(0, 4)):
            names = ("single_word", "lstrip", "rstrip", "special")
            new = len(known) + sum(token["id"] >= len(known) for token in added)
            flags = {name: self.chance(0.3) for name in names} | {
                "normalized": self.chance() and normalize(text) == text
            }
            added.append({"id": known.get(text, new), "content": text, **flags})
        return sorted(added, key=lambda token: int(token["id"]))

    def document(self) -> Step:
        normalizer = self.steps("normalizers", self.normalizer)
        pre_tokenizer = self.steps("pretokenizers", self.pre_tokenizer)
        if normalizer is not None:  # which word is first, the reference then takes from where it was before
            pre_tokenizer = json.loads(json.dumps(pre_tokenizer).replace('"first"', '"always"'))
        model = self.model("ByteLevel" in json.dumps(pre_tokenizer))
        made = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "model": model,
            "post_processor": None, "decoder": None,
        }  # fmt: skip
        known = model["vocab"]
        if isinstance(known, list):
            known = {word: i for i, (word, _) in enumerate(known)}
        theirs = tokenizers.Tokenizer.from_str(json.dumps(made)).normalizer
        normalize = theirs.normalize_str if theirs is not None else str
        return {**made, "added_tokens": self.added_tokens(known, normalize)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_random_tokenizers_give_the_ids_of_the_reference(seed: int) -> None:
    maker, compared, left_out = Maker(seed), 0, 0
    for _ in range(150):
        try:
            with panics_told():
                document = maker.document()
            theirs = tokenizers.Tokenizer.from_str(json.dumps(document))
            ours = Tokenizer.from_json(json.dumps(document).encode())
        except (Incomparable, UnsupportedError):
            left_out += 1
            continue
        for text in [maker.text() for _ in range(N_TEXTS)]:
            with contextlib.suppress(Incomparable), panics_told():
                expected = theirs.encode(text, add_special_tokens=False).ids
                assert ours.encode(text, special=True) == expected, (text, document)
                compared += 1
    assert compared > 2000 and left_out < 40
