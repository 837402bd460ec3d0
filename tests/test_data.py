"""Text to corpus: documents, tokenizers, splits, the files on disk, and what goes wrong."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from linnet.data import corpus as corpus_module
from linnet.data import sources
from linnet.data.bpe import train_bpe
from linnet.data.corpus import data
from linnet.data.sources import ReadCounts, Source, read_pieces
from linnet.data.tokenize import TextEncoder, open_encoder
from linnet.errors import FormatError, LinnetError, SourceError, TargetError, UsageError
from linnet.formats.corpus import Corpus, CorpusWriter
from linnet.options import DataOptions

tokenizers = pytest.importorskip("tokenizers")


def make(output: Path, *names: object, **options: object) -> dict[str, object]:
    settings = {"vocab_size": 300, "json": True, **options}
    return data(DataOptions(sources=tuple(map(str, names)), output=output, **settings))  # type: ignore[arg-type]


def stories(n: int, seed: int = 0) -> list[str]:
    """Small distinct texts with words, digits, other scripts and white space."""
    rng = random.Random(seed)
    words = "the a bird sang 1984 and über 林 🐦 looked\n\nup slowly; it was cold, so".split(" ")
    return [f"Story {i}: " + " ".join(rng.choices(words, k=rng.randint(5, 60))) for i in range(n)]


def write_rows(path: Path, texts: list[str], field: str = "text") -> Path:
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts), encoding="utf-8")
    return path


def documents(path: Path, split: str) -> list[str]:
    """The documents of a split, decoded; checks that BOS and EOS stand where they should."""
    corpus = Corpus.open(path)
    tokenizer = tokenizers.Tokenizer.from_str(corpus.tokenizer_json.decode())
    ids = corpus.split(split).read(0, len(corpus.split(split))).tolist()
    found: list[list[int]] = []
    if not ids:
        return []
    if corpus.bos_id == corpus.eos_id:
        assert ids[0] == ids[-1] == corpus.bos_id
        for token in ids[:-1]:
            found.append([]) if token == corpus.bos_id else found[-1].append(token)
        return [tokenizer.decode(document) for document in found]
    assert ids[-1] == corpus.eos_id
    while ids:
        assert ids[0] == corpus.bos_id
        end = ids.index(corpus.eos_id)
        found.append(ids[1:end])
        ids = ids[end + 1 :]
    return [tokenizer.decode(document) for document in found]


def read(path: Path, counts: ReadCounts | None = None, field: str = "text") -> list[str]:
    """The documents of a file, pieces joined."""
    found, parts = [], []
    for text, last in read_pieces(Source(path, path.as_posix()), field, counts or ReadCounts()):
        parts.append(text)
        if last:
            found.append("".join(parts))
            parts = []
    assert not parts
    return found


# ---- sources -------------------------------------------------------------------------


def test_a_line_with_only_the_separator_parts_documents_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n<|endoftext|>\nthree <|endoftext|> four\n<|endoftext|>\r\nfive", newline="")
    assert read(path) == ["one\ntwo", "three <|endoftext|> four", "five"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 18])
def test_reading_does_not_depend_on_where_chunks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffé🐦\n<|endoftext|>\nok\ufffd".encode() + b"\xf0\x9f\x90 \xff\xc3\n<|endoftext|>")
    monkeypatch.setattr(sources, "_CHUNK_BYTES", chunk)
    counts = ReadCounts()
    assert read(path, counts) == ["é🐦", "ok\ufffd\ufffd \ufffd\ufffd"]
    assert counts.replaced == 3


def test_a_long_document_is_read_in_pieces_that_join_to_the_same_text_and_tokens(tmp_path: Path) -> None:
    rng = random.Random(1)
    text = "".join(rng.choice(["bird ", "cold\n\n", "a", "Über\n", "\t1. ", " 林 "]) for _ in range(400_000))
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="")
    pieces = list(read_pieces(Source(path, "a.txt"), "text", ReadCounts()))
    assert "".join(piece.text for piece in pieces) == text
    assert len(pieces) > 3
    assert max(len(piece.text) for piece in pieces) <= 3 * sources.PIECE_CHARS
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    encoder = TextEncoder(train_bpe([text[:50_000]], 300), "trained")
    whole = encoder.encode([text])[0]
    rows = encoder.encode([piece.text for piece in pieces])
    assert [token for row in rows for token in row] == whole


def test_a_document_without_any_border_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x" * (5 * sources.PIECE_CHARS + 3))
    pieces = list(read_pieces(Source(path, "a.txt"), "text", ReadCounts()))
    assert max(len(piece.text) for piece in pieces) <= 2 * sources.PIECE_CHARS
    assert sum(len(piece.text) for piece in pieces) == 5 * sources.PIECE_CHARS + 3


def test_rows_are_documents_of_jsonl_parquet_and_their_compressed_forms(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [*stories(5), "inside\n<|endoftext|>\na row it is text"]
    plain = write_rows(tmp_path / "a.jsonl", texts)
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    parquet.write_table(arrow.table({"id": range(6), "text": texts}), tmp_path / "a.parquet")
    assert read(plain) == read(packed) == read(tmp_path / "a.parquet") == texts


def test_null_rows_and_half_surrogates_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": null}\n\n{"text": "a\\ud800b"}\n{"text": "caf\xe9"}\n')
    counts = ReadCounts()
    assert read(path, counts) == ["a\ufffdb", "caf\ufffd"]
    assert (counts.null_rows, counts.replaced) == (1, 2)


def test_a_directory_is_searched_in_order_and_other_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    for name in ("b.md", "a/z.py", "a/photo.jpg", ".git/config.txt", "settings.json", "c.txt.gz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")
    counts = ReadCounts()
    found = sources.find_sources((str(folder),), None, counts)
    assert [source.name for source in found] == ["texts/a/z.py", "texts/b.md", "texts/c.txt.gz"]
    assert counts.skipped_files == ["texts/a/photo.jpg", "texts/settings.json"]


# ---- the corpus ----------------------------------------------------------------------


def test_every_document_is_in_the_corpus_once_and_decodes_to_itself(tmp_path: Path) -> None:
    texts = stories(60)
    path = write_rows(tmp_path / "a.jsonl", [*texts, texts[3], "  \n", texts[7]])
    result = make(tmp_path / "out", path, validation=0.2)
    train, validation = documents(tmp_path / "out", "train"), documents(tmp_path / "out", "validation")
    assert sorted(train + validation) == sorted(texts)
    assert 4 <= len(validation) <= 22
    assert (result["documents"], result["duplicates"], result["blank"]) == (60, 2, 1)
    assert result["text_bytes"] == sum(len(text.encode()) for text in texts)
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.bytes_per_token("train") == sum(len(t.encode()) for t in train) / len(corpus.split("train"))
    assert result["fingerprint"] == corpus.fingerprint


def test_the_split_follows_the_content_not_the_order(tmp_path: Path) -> None:
    texts = stories(80)
    make(tmp_path / "x", write_rows(tmp_path / "a.jsonl", texts), validation=0.1)
    make(tmp_path / "y", write_rows(tmp_path / "b.jsonl", texts[::-1]), validation=0.1)
    make(tmp_path / "z", tmp_path / "a.jsonl", validation=0.1, seed=1)
    kept_out = [set(documents(tmp_path / name, "validation")) for name in "xyz"]
    assert kept_out[0] == kept_out[1] != kept_out[2]
    more = stories(40, seed=9)
    make(tmp_path / "w", write_rows(tmp_path / "c.jsonl", texts + more), validation=0.1)
    assert set(documents(tmp_path / "w", "validation")) - set(more) == kept_out[0]


@pytest.mark.parametrize("n", [1, 3])
def test_the_end_of_few_documents_is_kept_out(tmp_path: Path, n: int) -> None:
    texts = ["\n\n".join(stories(200, seed)) for seed in range(n)]
    result = make(tmp_path / "out", write_rows(tmp_path / "a.jsonl", texts), validation=0.1)
    train, validation = documents(tmp_path / "out", "train"), documents(tmp_path / "out", "validation")
    assert "".join(train + validation) == "".join(texts)
    assert len(validation) == 1
    total = len("".join(texts).encode())
    assert 0.1 * total <= len(validation[0].encode()) <= 0.1 * total + 200
    assert "the end of the text" in str(result["validation"])


def test_the_tail_may_begin_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts inside characters, at piece borders and inside the only piece all keep every byte."""
    monkeypatch.setattr(sources, "PIECE_CHARS", 8)
    text = "ab 🐦🐦 cd\n\nef 林林gh 12 é" * 2
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    for share in range(1, 99):
        make(tmp_path / "out", path, validation=share / 100)
        train, validation = documents(tmp_path / "out", "train"), documents(tmp_path / "out", "validation")
        assert len(train) == len(validation) == 1
        assert train[0] + validation[0] == text


def test_the_folder_in_which_the_corpus_lies_is_made_and_goes_again_after_a_failure(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", stories(20))
    make(tmp_path / "new" / "deep" / "corpus", source)
    assert Corpus.open(tmp_path / "new" / "deep" / "corpus").manifest.splits
    with pytest.raises(SourceError):
        make(tmp_path / "other" / "deep" / "corpus", tmp_path / "nowhere")
    assert not (tmp_path / "other").exists()


def test_no_validation_on_request(tmp_path: Path) -> None:
    make(tmp_path / "out", write_rows(tmp_path / "a.jsonl", stories(30)), validation=0.0)
    assert len(Corpus.open(tmp_path / "out").split("validation")) == 0


def test_the_same_input_and_options_give_the_same_bytes(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", stories(300))
    for name in ("x", "y"):
        make(tmp_path / name, path, vocab_size=500)
    files = sorted(file.name for file in (tmp_path / "x").iterdir())
    assert files == ["manifest.json", "tokenizer.json", "train-00000.bin", "validation-00000.bin"]
    for file in files:
        assert (tmp_path / "x" / file).read_bytes() == (tmp_path / "y" / file).read_bytes(), file


def test_shards_fill_up_and_read_as_one_stream(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", stories(50))
    make(tmp_path / "one", path)
    make(tmp_path / "many", path, shard_tokens=100)
    one, many = (Corpus.open(tmp_path / name).split("train") for name in ("one", "many"))
    assert len(one) == len(many) > 300
    assert len(list((tmp_path / "many").glob("train-*.bin"))) == -(-len(many) // 100)
    for start, stop in ((0, len(one)), (99, 101), (100, 200), (250, 250), (5, 305), (len(one) - 1, len(one))):
        assert np.array_equal(one.read(start, stop), many.read(start, stop))
    with pytest.raises(IndexError):
        one.read(0, len(one) + 1)


def test_standard_input_is_a_text_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n<|endoftext|>\n".join(stories(30))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    make(tmp_path / "file", tmp_path / "a.txt")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    make(tmp_path / "stdin", "-")
    for split in ("train", "validation"):
        assert documents(tmp_path / "file", split) == documents(tmp_path / "stdin", split)
    assert len(list((tmp_path / "stdin").iterdir())) == 4


def test_bos_and_eos_may_differ(tmp_path: Path) -> None:
    with CorpusWriter(tmp_path, b"{}", 300, bos_id=1, eos_id=2, shard_tokens=4) as writer:
        for ids in ([10, 11], [12]):
            writer.begin("train")
            writer.write("train", ids, 1)
            writer.end("train")
        writer.finish((), {})
    corpus = Corpus.open(tmp_path)
    assert corpus.split("train").read(0, 7).tolist() == [1, 10, 11, 2, 1, 12, 2]
    assert len(corpus.split("train")) == 7


def test_a_large_vocabulary_takes_four_bytes_an_id(tmp_path: Path) -> None:
    with CorpusWriter(tmp_path, b"{}", 70_000, bos_id=0, eos_id=0, shard_tokens=100) as writer:
        writer.begin("train")
        writer.write("train", [69_999], 1)
        writer.end("train")
        with pytest.raises(FormatError):
            writer.write("train", [70_000], 1)
        writer.finish((), {})
    assert Corpus.open(tmp_path).split("train").read(0, 3).tolist() == [0, 69_999, 0]


# ---- tokenizers ----------------------------------------------------------------------


def test_the_trained_tokenizer_is_what_the_design_says(tmp_path: Path) -> None:
    make(tmp_path / "out", write_rows(tmp_path / "a.jsonl", stories(200)), vocab_size=300)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 300
    assert tokenizer.token_to_id("<|endoftext|>") == 0
    assert tokenizer.encode("a bird").ids[0] == 0
    assert len(tokenizer.encode("1984", add_special_tokens=False).ids) == 4
    for text in ("  two  spaces", "\tüber\n\n林🐦\x00", "\u200d"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_special_tokens_in_the_text_stay_text(tmp_path: Path) -> None:
    texts = [f"{text} <|endoftext|> more" for text in stories(40)]
    path = write_rows(tmp_path / "a.jsonl", texts)
    make(tmp_path / "out", path, validation=0.1)
    corpus = Corpus.open(tmp_path / "out")
    for split in ("train", "validation"):
        ids = corpus.split(split).read(0, len(corpus.split(split)))
        assert np.count_nonzero(ids == 0) == corpus.manifest.splits[split].documents + 1
    found = documents(tmp_path / "out", "train") + documents(tmp_path / "out", "validation")
    assert sorted(found) == sorted(texts)


def test_published_tokenizers_are_used_as_their_makers_meant(shared: Path, tmp_path: Path) -> None:
    texts = [f"{text} <|im_end|> </s> <|endoftext|>" for text in stories(30)]
    path = write_rows(tmp_path / "a.jsonl", texts)
    for name, bos, eos in (("smollm2", "<|im_start|>", "<|im_end|>"), ("phi3", "<s>", "<|endoftext|>")):
        folder = shared / "tokenizers" / name
        make(tmp_path / name, path, tokenizer=folder)
        corpus = Corpus.open(tmp_path / name)
        tokenizer = tokenizers.Tokenizer.from_str(corpus.tokenizer_json.decode())
        assert (tokenizer.id_to_token(corpus.bos_id), tokenizer.id_to_token(corpus.eos_id)) == (bos, eos)
        assert tokenizer.truncation is None and tokenizer.padding is None
        ids = corpus.split("train").read(0, len(corpus.split("train")))
        n = corpus.manifest.splits["train"].documents
        assert np.count_nonzero(ids == corpus.eos_id) == n + (bos == eos)


def test_bos_and_eos_are_found_by_name_or_the_error_says_what_to_do(tmp_path: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_str(train_bpe(["a bird"], 257).decode())
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="$A")
    path = tmp_path / "tokenizer.json"
    table = json.loads(tokenizer.to_str())
    table["added_tokens"][0]["content"] = "</s>"
    table["model"]["vocab"]["</s>"] = table["model"]["vocab"].pop("<|endoftext|>")
    path.write_text(json.dumps(table))
    assert (open_encoder(path).bos_id, open_encoder(tmp_path).eos_id) == (0, 0)
    path.write_text(json.dumps(table).replace("</s>", "<end>"))
    with pytest.raises(SourceError, match=r"cannot tell which token ends a document.*<end>"):
        open_encoder(path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<end>"}}))
    assert open_encoder(path).eos_id == 0
    path.write_text("{}")
    with pytest.raises(FormatError, match=r"not a tokenizer\.json"):
        open_encoder(path)


def test_a_vocabulary_needs_room_for_the_bytes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="257"):
        make(tmp_path / "out", write_rows(tmp_path / "a.jsonl", stories(2)), vocab_size=256)


# ---- what goes wrong -----------------------------------------------------------------


BROKEN = {
    "empty.txt": (b"", "there is no text in"),
    "blank.txt": (b" \n\n", "there is no text in"),
    "binary.txt": (b"text\0\1\2", "is not text"),
    "rows.jsonl": (b'{"text": "a"}\n{"text": ', "line 2 is not valid JSON"),
    "field.jsonl": (b'{"body": "a", "id": 1}\n', "line 1 has no field 'text'; it has 'body', 'id'"),
    "number.jsonl": (b'{"text": 3}\n', "does not hold text"),
    "list.jsonl": (b"[1]\n", "is not a JSON object"),
    "cut.txt.gz": (gzip.compress(b"a bird sang" * 99)[:-9], "cannot decompress"),
    "plain.txt.gz": (b"not compressed", "cannot decompress"),
    "broken.parquet": (b"PAR1 nothing", "is not a readable Parquet file"),
    "tiny.txt": (b"a", "too little text"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text elsewhere")
def test_a_file_name_that_is_not_utf8_is_written_with_escapes(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_rows(Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jsonl")), stories(30))
    for source in (folder, next(folder.iterdir())):
        make(tmp_path / "out", source)
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes().decode("utf-8"))
        assert manifest["sources"][0]["name"].endswith("caf\\xe9.jsonl")
        assert Corpus.open(tmp_path / "out").fingerprint


@pytest.mark.skipif(os.name == "nt", reason="no such files there")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="pipe its text into: linnet data -"):
        make(tmp_path / "out", tmp_path / "pipe")
    with pytest.raises(SourceError, match="not a regular file"):
        make(tmp_path / "out", write_rows(tmp_path / "a.jsonl", stories(30)), tokenizer=tmp_path / "pipe")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_source_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError) as raised:
        make(tmp_path / "out", tmp_path / name)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert (tmp_path / name).read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_parquet_says_which_columns_there_are(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"body": ["a"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="no column 'text'; it has 'body', 'n'"):
        read(tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="'n' holds int64, not text"):
        read(tmp_path / "a.parquet", field="n")


def test_impossible_requests_are_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", stories(30))
    refused = (((), {}), (("-", "-"), {}), ((path,), {"validation": 1.0}), ((path,), {"shard_tokens": 0}))
    for names, options in refused:
        with pytest.raises(UsageError):
            make(tmp_path / "out", *names, **options)
    with pytest.raises(SourceError, match="does not exist"):
        make(tmp_path / "out", tmp_path / "nowhere.txt")
    with pytest.raises(SourceError, match="not a regular file"):
        make(tmp_path / "out", os.devnull)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.doc").write_text("years of work")
    with pytest.raises(TargetError, match=r"thesis\.doc"):
        make(tmp_path / "mine", path)
    with pytest.raises(TargetError):
        make(path, path)
    with pytest.raises(TargetError):
        make(path / "folder", path)
    assert (tmp_path / "mine" / "thesis.doc").read_text() == "years of work"
    assert not (tmp_path / "out").exists()


def test_an_older_corpus_is_replaced_and_kept_on_failure(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", stories(30))
    make(tmp_path / "out", path)
    before = Corpus.open(tmp_path / "out").fingerprint
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(LinnetError):
        make(tmp_path / "out", tmp_path / "bad.jsonl")
    assert Corpus.open(tmp_path / "out").fingerprint == before
    make(tmp_path / "out", path, vocab_size=301)
    assert Corpus.open(tmp_path / "out").fingerprint != before


def test_a_source_that_grows_between_the_readings_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "a.jsonl", stories(30))
    original = corpus_module._train_tokenizer

    def train_and_append(*arguments: object) -> bytes:
        trained = original(*arguments)  # type: ignore[arg-type]
        with path.open("a", encoding="utf-8") as file:
            file.write('{"text": "late"}\n')
        return trained

    monkeypatch.setattr(corpus_module, "_train_tokenizer", train_and_append)
    with pytest.raises(SourceError, match="changed while it was read"):
        make(tmp_path / "out", path)
    assert not (tmp_path / "out").exists()


DAMAGE = {
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "other tokenizer": lambda folder: (folder / "tokenizer.json").write_bytes(b"{}"),
    "no shard": lambda folder: (folder / "train-00000.bin").unlink(),
    "short shard": lambda folder: (folder / "train-00000.bin").write_bytes(b"\0\0"),
    "not JSON": lambda folder: (folder / "manifest.json").write_bytes(b"{"),
    "no splits": lambda folder: edit(folder, lambda table: table.pop("splits")),
    "other version": lambda folder: edit(folder, lambda table: table.update(version=9)),
    "eos outside": lambda folder: edit(folder, lambda table: table["tokenizer"].update(eos_id=300)),
    "wrong sum": lambda folder: edit(folder, lambda table: table["splits"]["train"].update(tokens=3)),
    "shard elsewhere": lambda folder: edit(
        folder, lambda table: table["splits"]["train"]["shards"][0].update(file="../x")
    ),
}


def edit(folder: Path, change) -> None:  # type: ignore[no-untyped-def]
    table = json.loads((folder / "manifest.json").read_text())
    change(table)
    (folder / "manifest.json").write_text(json.dumps(table))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_corpus_does_not_open(tmp_path: Path, damage: str) -> None:
    make(tmp_path / "out", write_rows(tmp_path / "a.jsonl", stories(30)))
    DAMAGE[damage](tmp_path / "out")
    with pytest.raises(SourceError) as raised:
        Corpus.open(tmp_path / "out")
    assert "\n" not in str(raised.value)


def test_verify_finds_a_changed_token(tmp_path: Path) -> None:
    make(tmp_path / "out", write_rows(tmp_path / "a.jsonl", stories(30)))
    Corpus.open(tmp_path / "out").verify()
    shard = tmp_path / "out" / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    with pytest.raises(FormatError, match="hash differs"):
        Corpus.open(tmp_path / "out").verify()


def test_the_command_line_prints_one_object_or_one_error_line(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", stories(30))
    command = [sys.executable, "-P", "-m", "linnet", "data", "--vocab-size", "300", "-o"]

    def linnet_data(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)

    done = linnet_data(tmp_path / "out", path, "--json")
    assert json.loads(done.stdout)["documents"] == 30, done.stderr
    assert done.stderr == ""
    failed = linnet_data(tmp_path / "x", "nowhere.txt")
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (2, "", 1)
    human = linnet_data(tmp_path / "y", path)
    assert human.stderr == ""
    assert "bytes per token" in human.stdout


FRUGAL = """
import sys
from linnet import cli
from linnet.data import corpus, sources
from linnet.run.meter import peak_rss_bytes

corpus.SAMPLE_BYTES //= 16
corpus.BATCH_CHARS //= 16
corpus._SAMPLE_CHARS //= 16
sources.PIECE_CHARS //= 16
sources._CHUNK_BYTES //= 16
assert cli.main(sys.argv[1:]) == 0
print(peak_rss_bytes())
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["paragraphs", "one line", "rows"])
def test_memory_is_bounded_on_a_large_input(tmp_path: Path, kind: str) -> None:
    """With every budget a sixteenth, 8 MB more of text must not raise the peak as if it were held."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(30_000)]
    end = {"paragraphs": "\n\n", "one line": " ", "rows": '"}\n{"text": "'}[kind]
    paragraphs = [" ".join(rng.choices(words, k=200)) + end for _ in range(1600)]  # about 2 MB

    def peak(repeats: int) -> int:
        path = tmp_path / f"{repeats}.{'jsonl' if kind == 'rows' else 'txt'}"
        with path.open("w") as file:
            file.write('{"text": "' if kind == "rows" else "")
            for number in range(repeats):
                rng.shuffle(paragraphs)
                file.writelines(f"{number} {paragraph}" for paragraph in paragraphs)
            file.write('the end"}\n' if kind == "rows" else "the end")
        arguments = ["data", str(path), "-o", str(tmp_path / "out"), "--vocab-size", "1000"]
        done = subprocess.run([sys.executable, "-c", FRUGAL, *arguments], capture_output=True, text=True)
        path.unlink()
        assert done.returncode == 0, done.stderr
        return int(done.stdout.splitlines()[-1])

    small, large = peak(1), peak(5)
    print(f"{kind}: {small / 1e6:.1f} MB, {large / 1e6:.1f} MB")
    assert large - small < 5e6


def test_options_are_those_of_the_manifest(tmp_path: Path) -> None:
    make(tmp_path / "out", write_rows(tmp_path / "a.jsonl", stories(30)), seed=5)
    kept = Corpus.open(tmp_path / "out").manifest.made_by["options"]
    names = {field.name for field in dataclasses.fields(DataOptions)} - {"output", "json"}
    assert set(kept) == names
    assert kept["seed"] == 5
