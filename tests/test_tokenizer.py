"""The tokenizer of the core against the tokenizers library, published vectors and its own inverse."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from linnet.engine.memory import Image
from linnet.engine.tokenizer import Tokenizer
from linnet.errors import FormatError, UnsupportedError, UsageError

FILES = ["smollm2", "gpt2", "phi3", "qwen2.5"]
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WHITE_SPACE = [" ", "  ", "      ", "\n", "\t", "\r\n", "\u3000", "\xa0", "\x85", "\u200b", "\u200d"]
WORDS = [
    "a",
    "the",
    "'s",
    "'ſ",
    "'RE",
    "'ll",
    "1",
    "12345",
    "²",
    "½",
    "!",
    "?!",
    "_",
    "▁",
    "中",
    "日本語",
    "👍🏽",
    "👨‍👩‍👧",
]
DECOMPOSED = ["é", "e\u0301", "q\u0323\u0307", "\u1100\u1161\u11a8"]
TAGS = [
    "<s>",
    "</s>",
    "</s>  ",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|> ",
    "<tool_call>",
    "<filename>",
    "<|",
]
SNIPPETS = [*WHITE_SPACE, *WORDS, *DECOMPOSED, *TAGS, "<|assistant|>\n"]


# ---- tokenizers and texts -------------------------------------------------------------


def read_jsonl(path: Path, field: str | None, n_bytes: int) -> Iterator[str]:
    """Documents of a file, until they hold n_bytes; without a field the lines themselves."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)[field] if field else line
            yield text
            n_bytes -= len(text.encode())
            if n_bytes <= 0:
                return


def random_characters(rng: random.Random, count: int) -> str:
    """Characters of every plane; small and combining ones more often."""
    highest = [0x80, 0x250, 0x800, 0x3100, 0x10000, 0x20000, 0x110000]
    points = [rng.randrange(rng.choice(highest)) for _ in range(count)]
    points += [rng.randrange(0x300, 0x370) for _ in range(count // 20)]
    rng.shuffle(points)
    return "".join(chr(c) for c in points if not 0xD800 <= c < 0xE000)


@cache
def make_texts(shared: Path, n_bytes: int) -> list[str]:
    """About n_bytes of code, English, Chinese, odd characters and white space."""
    rng = random.Random(20)
    sample = shared / "text" / "redpajama_sample"
    texts: list[str] = []
    for name in ("github", "wikipedia", "c4"):
        texts += read_jsonl(sample / f"{name}.jsonl", "text", n_bytes // 5)
    poems = shared / "weights" / "zh_poem750K" / "poetry_corpus_5000.jsonl"
    texts += read_jsonl(poems, None, n_bytes // 8)
    texts += [random_characters(rng, 400) for _ in range(n_bytes // 8000)]
    texts += ["".join(rng.choices(SNIPPETS, k=100)) for _ in range(n_bytes // 4000)]
    texts += [rng.randbytes(4000).decode("utf-8", "replace") for _ in range(n_bytes // 50000)]
    texts += [
        "",
        " ",
        " " * 2000,
        "\n" * 2000,
        " \n" * 1000,
        "\t \r\n" * 500,
        "a" * 2000,
        "中" * 2000,
        "ab " * 2000,
    ]
    texts += ["".join(rng.choices("abcdefghijklmnop", k=20000)), "👍" * 1000, "e\u0301" * 1000]
    return texts


def build_qwen(folder: Path) -> tokenizers.Tokenizer:
    """Qwen2.5 from its vocabulary, merges and added tokens, as its tokenizer.json has it."""
    model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    reference = tokenizers.Tokenizer(model)
    reference.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    reference.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    reference.decoder = decoders.ByteLevel()
    added = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    for id, token in sorted(added.items(), key=lambda item: int(item[0])):
        flags = {key: token[key] for key in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        add = reference.add_special_tokens if token["special"] else reference.add_tokens
        add([AddedToken(token["content"], **flags)])
        assert reference.token_to_id(token["content"]) == int(id)
    return reference


def reference_of(shared: Path, name: str) -> tokenizers.Tokenizer:
    folder = shared / "tokenizers" / name
    if name == "qwen2.5":
        return build_qwen(folder)
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.no_truncation()
    reference.no_padding()
    return reference


Pair = tuple[Tokenizer, tokenizers.Tokenizer]


@pytest.fixture(scope="module", params=FILES)
def pair(request: pytest.FixtureRequest, shared: Path) -> Pair:
    """Our tokenizer and the library's, from the same file."""
    reference = reference_of(shared, request.param)
    return Tokenizer.from_json(reference.to_str().encode()), reference


@pytest.fixture(scope="module")
def texts(shared: Path) -> list[str]:
    return make_texts(shared, 300_000)


def assert_same_ids(
    ours: Tokenizer, reference: tokenizers.Tokenizer, text: str, *, special: bool = True
) -> None:
    reference.encode_special_tokens = not special
    expected = reference.encode(text, add_special_tokens=False).ids
    found = ours.encode(text, special=special)
    if found == expected:
        return
    first = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), 0)
    where = slice(max(0, first - 3), first + 4)
    names = [[reference.id_to_token(id) for id in ids[where]] for ids in (found, expected)]
    pytest.fail(f"of {text[:60]!r}: token {first}: {names[0]} instead of {names[1]}")


# ---- the same ids as the tokenizers library ---------------------------------------------


def test_same_ids_as_the_library(pair: Pair, texts: list[str]) -> None:
    ours, reference = pair
    for text in texts:
        assert_same_ids(ours, reference, text)
    assert_same_ids(ours, reference, "\n".join(texts))


def test_same_ids_with_special_tokens_as_text(pair: Pair, texts: list[str]) -> None:
    ours, reference = pair
    for text in texts:
        if "<" in text:
            assert_same_ids(ours, reference, text, special=False)


@pytest.mark.slow
def test_same_ids_on_five_megabytes(pair: Pair, shared: Path) -> None:
    ours, reference = pair
    texts = make_texts(shared, 6_500_000)
    assert sum(len(text.encode()) for text in texts) >= 5_000_000
    reference.encode_special_tokens = False
    expected = reference.encode_batch(texts, add_special_tokens=False)
    for text, encoding in zip(texts, expected, strict=True):
        if ours.encode(text, special=True) != encoding.ids:
            assert_same_ids(ours, reference, text)  # says where


def test_invalid_utf8_is_replaced(pair: Pair) -> None:
    ours, _ = pair
    broken = b"\xe4\xb8 \xf0\x9f\x90 \xed\xa0\x80 \xf4\x90\x80\x80 \xc0\xaf \xf0\x9f"
    data = random.Random(3).randbytes(20_000) + broken
    assert ours.encode(data) == ours.encode(data.decode("utf-8", "replace"))


def test_same_text_as_the_library(pair: Pair, texts: list[str]) -> None:
    ours, reference = pair
    for text in texts[::3]:
        ids = ours.encode(text, special=True)
        if "\ufffd" not in text:
            assert ours.decode(ids).decode("utf-8", "replace") == reference.decode(ids)
            assert ours.decode(ids, special=True).decode("utf-8", "replace") == reference.decode(ids, False)


def test_one_id_at_a_time_gives_the_same_bytes(pair: Pair, texts: list[str]) -> None:
    ours, _ = pair
    for text in texts[::10]:
        ids = ours.encode(text)
        pieces = [ours.decode([id], at_start=i == 0) for i, id in enumerate(ids)]
        assert b"".join(pieces) == ours.decode(ids)


def test_round_trip(shared: Path, texts: list[str]) -> None:
    """GPT-2 has all 256 bytes and no normalizer: nothing is lost."""
    gpt2 = Tokenizer.from_json((shared / "tokenizers" / "gpt2" / "tokenizer.json").read_bytes())
    for text in texts:
        assert gpt2.decode(gpt2.encode(text)).decode() == text


def test_describes_itself(pair: Pair) -> None:
    ours, reference = pair
    assert ours.vocab_size >= reference.get_vocab_size(with_added_tokens=True)
    assert ours.kind == ("spm" if "▁" in reference.get_vocab() and reference.pre_tokenizer is None else "bpe")
    assert (ours.bos_id, ours.eos_id, ours.add_bos) == (None, None, False)
    with pytest.raises(UsageError, match="outside the vocabulary"):
        ours.decode([ours.vocab_size])


# ---- two files of one model -----------------------------------------------------------------


def test_both_files_of_phi3_agree(shared: Path, texts: list[str]) -> None:
    """The scores of the GGUF file and the merges of the tokenizer.json were made from one model."""
    gguf = Tokenizer.from_gguf(Image.open(shared / "tokenizers" / "ggml-vocab" / "ggml-vocab-phi-3.gguf"))
    ours = Tokenizer.from_json((shared / "tokenizers" / "phi3" / "tokenizer.json").read_bytes())
    assert (gguf.bos_id, gguf.add_bos, gguf.kind) == (1, True, "spm")
    for text in texts:
        if "</s>" not in text:  # takes the space behind it with it in one of the files only
            assert gguf.encode(text) == ours.encode(text)


def test_other_kinds_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="CharBPE"):
        Tokenizer.from_json(b'{"model": {"type": "CharBPE", "vocab": {"a": 0}}}')
    with pytest.raises(FormatError, match="damaged"):
        Tokenizer.from_json(b'{"model": {"type": "BPE"')


# ---- single steps ----------------------------------------------------------------------------

X, UNKNOWN = 0, 1


def word_counter(pre_tokenizer: Any) -> tokenizers.Tokenizer:
    """Every character but x is unknown and unknowns of a word are fused, so the ids show the words."""
    model = models.BPE({"x": X, "<unk>": UNKNOWN}, [], unk_token="<unk>", fuse_unk=True)
    reference = tokenizers.Tokenizer(model)
    reference.pre_tokenizer = pre_tokenizer
    return reference


BEHAVIORS = ["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"]
PATTERNS: list[str | Regex] = [
    " ",
    "ab",
    Regex(r"\s"),
    Regex(r"\d+"),
    Regex("a|(?=b)"),
    Regex(r"\s*"),
    Regex("b$|^a"),
]


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_split_behaviors(behavior: str, invert: bool) -> None:
    rng = random.Random(5)
    texts = ["".join(rng.choices("ab x1 \n", k=rng.randrange(30))) for _ in range(100)]
    for pattern in PATTERNS:
        reference = word_counter(pre_tokenizers.Split(pattern, behavior, invert))
        ours = Tokenizer.from_json(reference.to_str().encode())
        for text in texts:
            assert_same_ids(ours, reference, text)


PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "digits": lambda: pre_tokenizers.Digits(individual_digits=False),
    "single digits": lambda: pre_tokenizers.Digits(individual_digits=True),
    "whitespace": pre_tokenizers.Whitespace,
    "whitespace split": pre_tokenizers.WhitespaceSplit,
    "punctuation": pre_tokenizers.Punctuation,
    "contiguous punctuation": lambda: pre_tokenizers.Punctuation("contiguous"),
    "metaspace": pre_tokenizers.Metaspace,
    "metaspace first": lambda: pre_tokenizers.Metaspace(prepend_scheme="first"),
    "metaspace never": lambda: pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
    "sequence": lambda: pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)]),
}


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_pre_tokenizers(name: str) -> None:
    reference = word_counter(PRE_TOKENIZERS[name]())
    reference.add_special_tokens(["<s>"])
    ours = Tokenizer.from_json(reference.to_str().encode())
    rng = random.Random(6)
    parts = [*"ax1!, ²▁", "  ", "<s>", "\u200d"]
    for _ in range(300):
        assert_same_ids(ours, reference, "".join(rng.choices(parts, k=rng.randrange(20))))


def code_points() -> list[str]:
    return [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]


CLASSES = [r"\p{N}", r"\s", r"\w", r"\p{Lu}", r"\p{P}", r"\p{S}", r"\p{M}", r"\p{Cn}", r"[^\s\p{L}\p{N}]"]
CLASSES += [r"\p{L}", r"\p{Ll}|\d", r"\p{Lm}", r"\p{C}", r"(?i:[a-z])"]


def assert_same_class(pre_tokenizer: Any, characters: list[str]) -> None:
    """A pre-tokenizer that removes single characters: the ids show which."""
    reference = word_counter(pre_tokenizer)
    ours = Tokenizer.from_json(reference.to_str().encode())
    text = "x".join(characters)
    assert ours.encode(text) == reference.encode(text).ids


@pytest.mark.parametrize("pattern", [r"\p{L}", r"[^\s\p{L}\p{N}]"])
def test_classes_of_some_code_points(pattern: str) -> None:
    assert_same_class(pre_tokenizers.Split(Regex(pattern), "removed"), code_points()[:0x3000:3])


@pytest.mark.slow
@pytest.mark.parametrize("pattern", CLASSES)
def test_classes_of_every_code_point(pattern: str) -> None:
    assert_same_class(pre_tokenizers.Split(Regex(pattern), "removed"), code_points())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["single digits", "whitespace", "whitespace split"])
def test_pre_tokenizers_on_every_code_point(name: str) -> None:
    assert_same_class(PRE_TOKENIZERS[name](), code_points())


def byte_speller(normalizer: Any) -> tokenizers.Tokenizer:
    """The ids are the bytes of the normalised text."""
    reference = tokenizers.Tokenizer(
        models.BPE({f"<0x{b:02X}>": b for b in range(256)}, [], byte_fallback=True)
    )
    reference.normalizer = normalizer
    return reference


def assert_same_nfc(text: str) -> None:
    reference = byte_speller(normalizers.NFC())
    ours = Tokenizer.from_json(reference.to_str().encode())
    assert ours.encode(text) == reference.encode(text).ids


@pytest.mark.slow
@pytest.mark.parametrize("around", ["{}\n", "\u0301{}\n", "a\u0323{}\u0300"])
def test_nfc_of_every_code_point(around: str) -> None:
    assert_same_nfc("".join(around.format(c) for c in code_points() if c not in "{}"))


def test_nfc_of_random_marks() -> None:
    rng = random.Random(8)
    marks = [*range(0x300, 0x34F), *range(0x1100, 0x1113), *range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]
    alphabet = [chr(c) for c in [*marks, *range(0xC0, 0x180), 0xAC00, 0x958, 0x9C7, 0x9BE]]
    assert_same_nfc("".join(rng.choices(alphabet + list("aeioAEIOqs") * 8, k=50_000)))


def test_normalizers() -> None:
    steps = [
        normalizers.Prepend("▁"),
        normalizers.Replace(" ", "▁▁"),
        normalizers.Replace(Regex("a{2,}|b"), ""),
        normalizers.NFC(),
    ]
    reference = byte_speller(normalizers.Sequence(steps))
    reference.add_tokens([AddedToken("q a", normalized=True), AddedToken("z", normalized=False, lstrip=True)])
    ours = Tokenizer.from_json(reference.to_str().encode())
    rng = random.Random(9)
    for _ in range(300):
        assert_same_ids(ours, reference, "".join(rng.choices([*"aabe \u0301z", "q a"], k=rng.randrange(25))))


def test_template_names_bos_and_eos() -> None:
    reference = word_counter(None)
    content = json.loads(reference.to_str())
    content["added_tokens"] = [{"id": 2, "content": "<s>", "special": True}]
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    special = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    template = {"type": "TemplateProcessing", "special_tokens": {"<s>": {"id": "<s>", "ids": [2]}}}
    cases = (([special, sequence], 2, None), ([sequence, special], None, 2), ([sequence], None, None))
    for single, bos, eos in cases:
        content["post_processor"] = {"type": "Sequence", "processors": [template | {"single": single}]}
        ours = Tokenizer.from_json(json.dumps(content).encode())
        assert (ours.bos_id, ours.eos_id, ours.add_bos) == (bos, eos, bos is not None)


# ---- time -------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["a", "ab", " ", "中", "e\u0301"])
def test_long_texts_without_words_take_linear_time(shared: Path, unit: str) -> None:
    """One word of half a megabyte: a quadratic step would take minutes."""
    for name in ("phi3", "gpt2"):
        tokenizer = Tokenizer.from_json((shared / "tokenizers" / name / "tokenizer.json").read_bytes())
        start = time.process_time()
        assert tokenizer.encode(unit * (500_000 // len(unit.encode())))
        assert time.process_time() - start < 5
