"""Tokenizer files of every kind that were made to do harm: one clear line, in little time, or a tokenizer."""

from __future__ import annotations

import base64
import json
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linnet.engine.tokenizer import Tokenizer
from linnet.errors import FormatError, LinnetError
from linnet.formats.parts import TokenizerParts
from linnet.formats.source import open_tokenizer
from linnet.formats.tokenizer_json import json_from_vocabulary
from linnet.types import SpecialTokens

N_TOKENS = 40
SIZES = {"pieces.vocab": 5, "llama2c.bin": 6, "bpe.model": 4, "unigram.model": 4}  # must have as many
TEXT = "ab <s> \u2581é\ud83d\ude00\0" + "a" * 300

# ---- small files of every kind --------------------------------------------------------------


def bpe(**changes: Any) -> dict[str, Any]:
    vocab = {"<unk>": 0, "<s>": 1, "a": 2, "b": 3, "\u2581": 4, "ab": 5, "<0x0A>": 6}
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "vocab": vocab, "merges": ["a b"]}
    return {"model": model | changes, "added_tokens": [{"id": 1, "content": "<s>", "special": True}]}


def unigram(**changes: Any) -> dict[str, Any]:
    pieces = [["<unk>", 0], ["a", -1.5], ["\u2581", -2], ["\u2581ab", -3]]
    return {"model": {"type": "Unigram", "unk_id": 0, "vocab": pieces} | changes}


def words(kind: str, **changes: Any) -> dict[str, Any]:
    vocab = {"[UNK]": 0, "a": 1, "##b": 2, "ab": 3}
    return {"model": {"type": kind, "unk_token": "[UNK]", "vocab": vocab} | changes}


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def sentencepiece(
    kind: int = 2, pieces: tuple[bytes, ...] = (b"<unk>", b"a", b"\xe2\x96\x81", b"ab")
) -> bytes:
    scored = [
        field(1, text) + b"\x15" + struct.pack("<f", -i) + b"\x18" + bytes([2 if i == 0 else 1])
        for i, text in enumerate(pieces)
    ]
    return b"".join(field(1, piece) for piece in scored) + field(2, b"\x18" + bytes([kind]))


def ranks(*tokens: bytes) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def llama2c(*pieces: bytes) -> bytes:
    return struct.pack("<i", 8) + b"".join(
        struct.pack("<fi", 0.5, len(piece)) + piece for piece in (b"<unk>", b"\n<s>\n", b"\n</s>\n", *pieces)
    )


VALID: dict[str, bytes] = {
    "bpe.json": json.dumps(bpe()).encode(),
    "unigram.json": json.dumps(unigram()).encode(),
    "wordpiece.json": json.dumps(words("WordPiece")).encode(),
    "wordlevel.json": json.dumps(words("WordLevel")).encode(),
    "bpe.model": sentencepiece(2),
    "unigram.model": sentencepiece(1),
    "ranks.tiktoken": ranks(b"a", b"b", b"ab"),
    "pieces.vocab": "<unk>\t0\n<s>\t0\n</s>\t0\na\t-1.5\n\u2581\t-2\n".encode(),
    "llama2c.bin": llama2c(b"a", b" ", b"ab"),
}
FOLDERS: dict[str, dict[str, bytes]] = {
    "merges": {
        "vocab.json": b'{"a": 0, "b": 1, "ab": 2, "c": 3}',
        "merges.txt": b"#version: 0.2\na b\n",
        "added_tokens.json": b'{"<|x|>": 4}',
    },
    "vocab.txt": {
        "vocab.txt": b"[UNK]\n[CLS]\n[SEP]\na\n##b\n",
        "tokenizer_config.json": b'{"do_lower_case": 1, "added_tokens_decoder": {"2": {"content": "[SEP]"}}}',
    },
}
for name, data in VALID.items():  # and as parts of a folder
    kind = "tokenizer.json" if name.endswith("json") else "tokenizer.model"
    FOLDERS[f"folder of {name}"] = {kind: data}


def as_json(parts: TokenizerParts) -> bytes:
    return parts.json or json_from_vocabulary(parts.vocabulary, SpecialTokens())


def encode_all(document: bytes) -> None:
    tokenizer = Tokenizer.from_json(document)
    ids = tokenizer.encode(TEXT.encode("utf-16", "surrogatepass").decode("utf-16"), special=True)
    assert all(0 <= id < tokenizer.vocab_size for id in ids)
    tokenizer.decode(ids)


def must_end_well(read: Callable[[], bytes]) -> str | None:
    """What it was refused with; None where it is a tokenizer. Other errors, and long ones, are failures."""
    start = time.process_time()
    message = None
    try:
        encode_all(read())
    except LinnetError as error:
        message = str(error)
        assert "\n" not in message.strip() and 10 < len(message) < 1000
    assert time.process_time() - start < 5  # none should take one
    return message


# ---- crafted files ------------------------------------------------------------------------------

DEEP = b"[" * 200_000
HUGE = int("9" * 400)
LONG = b"a" * 1_000_000
BILLION = 1_000_000_000

JSON_FILES: dict[str, Any] = {
    "nested": b'{"model": ' + DEEP,
    "nested objects": b'{"model":' * 100_000,
    "no model": b'{"version": "1.0"}',
    "array": b'{"model": []}',
    "cut": json.dumps(bpe()).encode()[:-9],
    "digits": b'{"model": {"type": "BPE", "vocab": {"a": ' + b"9" * 100_000 + b"}}}",
    "invalid utf-8": b'{"model": {"type": "BPE", "vocab": {"\xff\xfe": 0}, "merges": []}}',
    "lone surrogate": b'{"model": {"type": "BPE", "byte_fallback": 1, "vocab": {"\\ud800":0}, "merges": []}}',
    "huge id": bpe(vocab={"a": BILLION}, merges=[]),
    "huger id": bpe(vocab={"a": HUGE}, merges=[]),
    "negative id": bpe(vocab={"a": -1}, merges=[]),
    "fraction as id": bpe(vocab={"a": 0.5}, merges=[]),
    "same id": bpe(vocab={"a": 0, "b": 0}, merges=[]),
    "missing merge": bpe(merges=["a c"]),
    "merge of three": bpe(merges=["a b c"]),
    "merge of numbers": bpe(merges=[[1, 2]]),
    "merge of itself": bpe(vocab={"": 0, "a": 1}, merges=[["", "a"], ["a", ""], ["", ""]]),
    "merges no list": bpe(merges={"a": 1}),
    "long token": bpe(vocab={"<unk>": 0, LONG.decode(): 1}, merges=[]),
    "unknown that is none": bpe(unk_token="[nothing]"),
    "added token with a huge id": bpe() | {"added_tokens": [{"id": BILLION, "content": "x"}]},
    "added token without text": bpe() | {"added_tokens": [{"id": 1}]},
    "added token, other text": bpe() | {"added_tokens": [{"id": 2, "content": "x"}]},
    "long added token": bpe() | {"added_tokens": [{"id": 9, "content": LONG.decode()}]},
    "Unigram, huge score": unigram(vocab=[["a", HUGE]]),
    "Unigram, no number": unigram(vocab=[["a", None]]),
    "Unigram, NaN": b'{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", NaN]]}}',
    "Unigram, unk_id": unigram(unk_id=BILLION),
    "Unigram, unk_id text": unigram(unk_id="a"),
    "Unigram, long piece": unigram(vocab=[["a", 0], [LONG.decode(), -1]]),
    "Unigram, charsmap": unigram()
    | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
    "WordPiece, prefix": words("WordPiece", continuing_subword_prefix=7),
    "WordPiece, count": words("WordPiece", max_input_chars_per_word=-BILLION),
    "WordLevel, list": words("WordLevel", vocab=["a"]),
    "WordLevel, no unknown": words("WordLevel", vocab={"a": 0}),
    "Sequence in Sequence": bpe() | {"normalizer": {"type": "Sequence", "normalizers": "x"}},
    "many steps": bpe() | {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 100_000}},
    "steps that grow": bpe()
    | {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"Regex": ""}, "content": "a" * 200}] * 16,
        }
    },
    "regex of a billion": bpe()
    | {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a{1000000000}){1000000000}"}}},
    "regex that backtracks": bpe()
    | {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+(a+)+(a+)+c"}}},
    "template": bpe()
    | {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>"}}] * 1000,
            "special_tokens": {"<s>": {"ids": [1]}},
        }
    },
}
RAW_FILES: dict[str, bytes] = {
    "model: endless varint": b"\xff" * 1000,
    "model: a length beyond the file": b"\x0a" + varint(1 << 60) + b"x",
    "model: no pieces": field(2, b"\x18\x02") + b"\xff\xff",
    "model: pieces in pieces": field(1, field(1, field(1, field(1, b"\xff")))),
    "model: kind": sentencepiece(99),
    "model: piece of an unknown kind": field(1, field(1, b"a\xff") + b"\x18\x63"),
    "model: invalid utf-8": sentencepiece(2, (b"<unk>", b"\xff\xfe", b"a")),
    "model: same piece": sentencepiece(2, (b"<unk>", b"a\xc3\xa9", b"a", b"a", b"a")),
    "model: long piece": sentencepiece(2, (b"<unk>", b"\xff", LONG)),
    "model: long unigram piece": sentencepiece(1, (b"<unk>", b"\xff", LONG)),
    "ranks: huge": b"YQ== " + b"9" * 10_000 + b"\n",
    "ranks: one line": b"YQ== 0 " + b"YQ== " * 20_000,
    "ranks: same token": b"YQ== 0\nYQ== 1\n",
    "ranks: no base64": b"YQ== 0\n!!!! 1\n",
    "ranks: holes": b"YQ== 0\nYg== 5\n",
    "ranks: long token": ranks(b"a", LONG),
    "vocab: no score": b"a\t1\nb\tx\n",
    "vocab: infinite score": b"a\tinf\nb\tnan\n<s>\t1\n</s>\t2\nc\t3\n",
    "bin: negative length": struct.pack("<ifi", 8, 0.0, -1),
    "bin: huge length": struct.pack("<ifi", 8, 0.0, 0x7FFFFFFF) + b"x",
    "gguf: counts": b"GGUF" + struct.pack("<IQQ", 3, BILLION, BILLION),
}
FOLDER_FILES: dict[str, dict[str, bytes]] = {
    "vocab.json: huge id": {"vocab.json": b'{"a": 1000000000}', "merges.txt": b"a b\n"},
    "vocab.json: list": {"vocab.json": b"[1]", "merges.txt": b"a b\n"},
    "vocab.json: nested": {"vocab.json": b'{"a":' + DEEP, "merges.txt": b"a b\n"},
    "vocab.json: id is text": {"vocab.json": b'{"a": "b"}', "merges.txt": b""},
    "merges.txt: not utf-8": {"vocab.json": b'{"a": 0}', "merges.txt": b"\xff \xfe\n"},
    "merges.txt: one": {"vocab.json": b'{"a": 0}', "merges.txt": b"a\n"},
    "merges.txt: unknown": {"vocab.json": b'{"a": 0}', "merges.txt": b"a b\n" * 5_000},
    "vocab.txt: not utf-8": {"vocab.txt": b"[UNK]\n\xff\n"},
    "vocab.txt: twice": {"vocab.txt": b"[UNK]\na\na\na\n"},
    "vocab.txt: no unknown": {"vocab.txt": b"a\n"},
    "vocab.txt: long": {"vocab.txt": b"[UNK]\n" + LONG},
    "vocab.txt: many": {"vocab.txt": b"[UNK]\n" + b"\n".join(b"%d" % i for i in range(20_000))},
    "added_tokens.json: huge id": FOLDERS["merges"] | {"added_tokens.json": b'{"x": 1000000000}'},
    "added_tokens.json: text": FOLDERS["merges"] | {"added_tokens.json": b'{"x": "y"}'},
    "tokenizer_config.json: nested": FOLDERS["vocab.txt"] | {"tokenizer_config.json": DEEP},
    "tokenizer_config.json: id": FOLDERS["vocab.txt"]
    | {"tokenizer_config.json": b'{"added_tokens_decoder": {"%s": {"content": "x"}}}' % (b"9" * 5000)},
    "tokenizer_config.json: class": FOLDERS["merges"]
    | {"tokenizer_config.json": b'{"tokenizer_class": ["x"]}'},
    "tokenizer_config.json: flags": FOLDERS["vocab.txt"]
    | {"tokenizer_config.json": b'{"do_lower_case": "no"}'},
}


@pytest.mark.parametrize("name", JSON_FILES)
def test_crafted_tokenizer_json(name: str, tmp_path: Path) -> None:
    content = JSON_FILES[name]
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    must_end_well(lambda: as_json(open_tokenizer(path, N_TOKENS)))
    must_end_well(path.read_bytes)  # the core alone, which reads what is inside a GGUF


@pytest.mark.parametrize("name", RAW_FILES)
def test_crafted_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(RAW_FILES[name])
    must_end_well(lambda: as_json(open_tokenizer(path, 5)))
    must_end_well(lambda: as_json(open_tokenizer(tmp_path, N_TOKENS)))


@pytest.mark.parametrize("name", FOLDER_FILES)
def test_crafted_folders(name: str, tmp_path: Path) -> None:
    for file, content in FOLDER_FILES[name].items():
        (tmp_path / file).write_bytes(content)
    must_end_well(lambda: as_json(open_tokenizer(tmp_path, N_TOKENS)))


def test_more_embeddings_than_can_be(tmp_path: Path) -> None:
    for file, content in (("tokenizer.json", VALID["bpe.json"]), ("tokenizer.model", VALID["bpe.model"])):
        (tmp_path / file).write_bytes(content)
        with pytest.raises(FormatError, match="1000000000"):
            open_tokenizer(tmp_path, BILLION)
        (tmp_path / file).unlink()


# ---- damaged files --------------------------------------------------------------------------------


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The file with bytes changed, cut out, repeated or put in."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(out) + 1)
        n = rng.choice([1, 1, 2, 8, 40])
        part = rng.choice(
            [rng.randbytes(n), bytes(out[at : at + n]) * 3, b"", b"9" * n, b'"', b"[", b"\xff" * n]
        )
        out[at : at + rng.choice([0, n])] = part
    return bytes(out)


@pytest.mark.parametrize("name", VALID)
def test_valid_files_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(VALID[name])
    refused = must_end_well(lambda: as_json(open_tokenizer(path, SIZES.get(name, N_TOKENS))))
    assert refused is None or "how its tokenizer splits text" in refused


@pytest.mark.parametrize("name", FOLDERS)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    rng = random.Random(name)
    refused = 0
    for _ in range(20):
        broken = rng.choice(list(FOLDERS[name]))
        for file, content in FOLDERS[name].items():
            (tmp_path / file).write_bytes(damaged(rng, content) if file == broken else content)
        refused += must_end_well(lambda: as_json(open_tokenizer(tmp_path, N_TOKENS))) is not None
    assert refused > 0


# ---- texts that collide in a table ------------------------------------------------------------------

MULTIPLIERS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def unshift(x: np.ndarray, n: int) -> np.ndarray:
    """Undoes x ^= x >> n."""
    y = x.copy()
    for _ in range(64 // n):
        y = x ^ (y >> np.uint64(n))
    return y


def colliding_words(count: int) -> list[str]:
    """ASCII words of eight bytes that have one 32-bit hash in vocab.c: its steps, backwards."""
    rng = np.random.default_rng(4)
    inverse = [np.uint64(pow(m, -1, 1 << 64)) for m in MULTIPLIERS]
    start = np.uint64(8 * MULTIPLIERS[0] % (1 << 64))
    found: list[str] = []
    while len(found) < count:
        x = rng.integers(0, 1 << 32, 1 << 19, dtype=np.uint64) | np.uint64(0x12345678 << 32)
        x = unshift(x * inverse[0], 32) * inverse[2]
        x = unshift(x, 29) * inverse[1] ^ start
        octets = x.view(np.uint8).reshape(-1, 8)
        letters = ((octets > 0x22) & (octets < 0x7F) & (octets != 0x5C)).all(axis=1)
        found += [row.tobytes().decode() for row in octets[letters]]
    return list(dict.fromkeys(found))[:count]


def test_tokens_that_collide() -> None:
    words_ = colliding_words(1200)
    start = time.process_time()
    with pytest.raises(FormatError, match="made to collide"):
        Tokenizer.from_json(
            json.dumps(words("WordLevel", vocab={w: i for i, w in enumerate(words_)})).encode()
        )
    few = {w: i for i, w in enumerate(["[UNK]", *words_[:500]])}  # as many as may be
    document = words("WordLevel", vocab=few) | {"pre_tokenizer": {"type": "WhitespaceSplit"}}
    tokenizer = Tokenizer.from_json(json.dumps(document).encode())
    text = " ".join([*few, *words_[500:]] * 10)
    assert tokenizer.encode(text) == [few.get(word, 0) for word in text.split()]
    assert time.process_time() - start < 5


def test_merges_that_collide() -> None:
    """Pairs of single characters that have one place in a table of 2,048."""
    n, bits = 1700, 11
    left, right = np.divmod(np.arange(n * n, dtype=np.uint64), np.uint64(n))
    key = left << np.uint64(32) | right
    slot = (key ^ key >> np.uint64(29)) * np.uint64(MULTIPLIERS[0]) >> np.uint64(64 - bits)
    pairs = np.flatnonzero(slot == 77)[:1000]
    letters = [chr(0x4E00 + i) for i in range(n)]
    merges = [[letters[int(left[p])], letters[int(right[p])]] for p in pairs]
    assert len(merges) == 1000
    tokens = letters + ["".join(pair) for pair in merges]
    document = bpe(vocab={token: i for i, token in enumerate(["<unk>", *tokens])}, merges=merges)
    document["model"]["vocab"] = {token: i for i, token in enumerate([*tokens, "<unk>"])}
    document["added_tokens"] = []
    with pytest.raises(FormatError, match="merges of the tokenizer are made to collide"):
        Tokenizer.from_json(json.dumps(document).encode())
    document["model"]["merges"] = merges[:500]
    ours = Tokenizer.from_json(json.dumps(document).encode())
    start = time.process_time()
    assert len(ours.encode("".join("".join(pair) for pair in merges) * 20)) == 20 * 1500
    assert time.process_time() - start < 5
