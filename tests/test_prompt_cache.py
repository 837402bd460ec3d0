"""Prompts kept in a file: what follows has the same bits, and a file that does not fit is refused."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest

import linnet
from linnet import cli
from linnet.cli import main
from linnet.engine.library import digest
from linnet.engine.model import Model
from linnet.engine.session import PAGE_TOKENS, Session, Workspace, pages_of
from linnet.engine.states import load_states, save_states
from linnet.errors import FormatError, LinnetError, SourceError, TargetError, UsageError
from linnet.formats.adapter import AdapterParts, LowRank, plain_tensor, write_adapter
from linnet.options import QuantizeOptions
from linnet.quantize.quantize import quantize
from linnet.run.model import BUNDLED_MODEL
from linnet.run.text.prompt_cache import prompt_kept_in
from tests.tiny_families import FAMILIES, VOCAB, write_family

STORY = "Once upon a time there was a little girl named Lily. She had a red ball and a small dog called Max. "
LONG = STORY * 6  # tokens of three pages
FRONT = 24


@pytest.fixture(scope="module")
def model() -> linnet.LanguageModel:
    return linnet.load(threads=1)


@pytest.fixture(scope="module")
def written(model: linnet.LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompt") / "long.prompt"
    assert model.save_prompt(path, LONG) == len(model.tokenize(LONG))
    return path


# ---- the same bits --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kv_type", "speculate"), [("f32", False), ("f16", True), ("q8_0", False), ("q4_0", True)]
)
def test_a_text_goes_on_from_a_file_as_from_memory(kv_type: str, speculate: bool, tmp_path: Path) -> None:
    first, second = (linnet.load(threads=1, kv_type=kv_type) for _ in range(2))
    expected = first.generate(LONG, max_tokens=40, seed=1, speculate=speculate)
    first.save_prompt(tmp_path / "p", LONG)
    n_tokens = second.load_prompt(tmp_path / "p")
    made = second.generate(LONG, max_tokens=40, seed=1, speculate=speculate)
    assert (made.ids, made.cached_tokens) == (expected.ids, n_tokens - 1)
    shorter = LONG[: len(LONG) // 2] + "Then Max"
    made = second.generate(shorter, max_tokens=20, seed=2)
    assert made.cached_tokens > n_tokens // 3
    assert made.ids == linnet.load(threads=1, kv_type=kv_type).generate(shorter, max_tokens=20, seed=2).ids


@pytest.mark.parametrize("name", ["lfm2", "mistral", "gemma3", "phi3_longrope", "gpt2"])
@pytest.mark.parametrize("n_tokens", [PAGE_TOKENS, 150])
def test_every_kind_of_layer_goes_on_with_the_same_bits(name: str, n_tokens: int, tmp_path: Path) -> None:
    model = Model.open(write_family(FAMILIES[name], tmp_path / "m.gguf"))
    ids = np.random.default_rng(n_tokens).integers(3, VOCAB, n_tokens + 60).tolist()
    session, loaded = (Session(Workspace(model, n_threads=1), 256) for _ in range(2))
    session.eval(ids[:n_tokens])
    save_states(session, tmp_path / "p")
    assert load_states(loaded, tmp_path / "p", 100) == session.ids == ids[:n_tokens]
    for timeline in (session, loaded):
        timeline.eval(ids[n_tokens:])
    np.testing.assert_array_equal(loaded.logits, session.logits)


def test_the_same_text_gives_the_same_file(written: Path, tmp_path: Path) -> None:
    other = linnet.load(threads=2)
    other.generate("The cat and the dog played in the garden. " * 20, max_tokens=30)  # fills pages
    other.cache.clear()
    other.generate(LONG, max_tokens=80)
    other.save_prompt(tmp_path / "p", LONG)
    assert (tmp_path / "p").read_bytes() == written.read_bytes()


def test_weights_quantized_at_load_are_those_of_the_quantized_file(tmp_path: Path) -> None:
    """What counts is what the core computes with, not the file it came from."""
    plain = linnet.load(threads=1)
    quantize(QuantizeOptions(source=BUNDLED_MODEL, output=tmp_path / "q.gguf", type="q4_0"))
    here = linnet.load(type="q4_0", threads=1)
    there = linnet.load(tmp_path / "q.gguf", threads=1)
    assert here.model.digest == there.model.digest != plain.model.digest
    here.save_prompt(tmp_path / "p", STORY)
    assert there.load_prompt(tmp_path / "p") > 0
    with pytest.raises(SourceError, match="another model, or with its weights held as another type"):
        plain.load_prompt(tmp_path / "p")


# ---- limits ---------------------------------------------------------------------------


def test_a_file_takes_no_more_bytes_than_the_limit(model: linnet.LanguageModel, tmp_path: Path) -> None:
    n_pages = pages_of(len(model.tokenize(LONG)))
    limit = (n_pages - 1) * (model.workspace.page_bytes + 1024) + 8192
    small = linnet.load(threads=1, cache_bytes=limit)
    assert small.save_prompt(tmp_path / "p", LONG) == (n_pages - 1) * PAGE_TOKENS
    assert (tmp_path / "p").stat().st_size <= limit
    assert model.load_prompt(tmp_path / "p") == (n_pages - 1) * PAGE_TOKENS
    none = linnet.load(threads=1, cache_bytes=1000)
    with pytest.raises(UsageError, match=r"takes [0-9,]+ bytes and the limit is 1,000"):
        none.save_prompt(tmp_path / "q", LONG)
    assert not (tmp_path / "q").exists()


def test_a_file_longer_than_the_room_is_taken_over_in_part(written: Path) -> None:
    ids = linnet.load().tokenize(LONG)
    short = linnet.load(threads=1, n_ctx=100)
    assert short.load_prompt(written) == len(ids)
    assert short.generate(ids[:90], max_tokens=1).cached_tokens == 89
    page = short.workspace.page_bytes
    narrow = linnet.load(threads=1, cache_bytes=short.session.n_bytes + 3 * 4096 * 4 + page)
    narrow.load_prompt(written)
    assert narrow.cache.n_bytes <= narrow.cache.max_bytes
    assert narrow.generate(ids, max_tokens=1).cached_tokens == PAGE_TOKENS


def test_what_has_left_a_sliding_window_is_not_in_the_file(tmp_path: Path) -> None:
    model = Model.open(write_family(FAMILIES["mistral"], tmp_path / "m.gguf"))
    session, loaded = (Session(Workspace(model, n_threads=1, kv_tokens=256), 256) for _ in range(2))
    session.eval([5 + i % 80 for i in range(250)])
    save_states(session, tmp_path / "p")
    assert (tmp_path / "p").stat().st_size < 3 * session.workspace.page_bytes
    load_states(loaded, tmp_path / "p", 2)  # as many as are held, of four
    assert len(loaded) == 250
    cut = Session(Workspace(model, n_threads=1), 200)
    load_states(cut, tmp_path / "p", 100)
    assert len(cut) == 0  # its window is not there


# ---- files that do not fit --------------------------------------------------------------


def test_what_the_bits_depend_on_has_to_be_the_same(written: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"long.prompt was made with keys and values in f16.*in q8_0; del"):
        linnet.load(kv_type="q8_0").load_prompt(written)
    with pytest.raises(SourceError, match="those for scalar compute"):
        linnet.load(isa="scalar").load_prompt(written)
    with pytest.raises(SourceError, match="another model"):
        linnet.load(type="q4_0").load_prompt(written)
    with pytest.raises(SourceError, match="does not exist"):
        linnet.load().load_prompt(tmp_path / "missing")


def test_adapters_and_their_scales_have_to_be_the_same(tmp_path: Path) -> None:
    model = linnet.load(threads=1)
    rng = np.random.default_rng(0)
    dim = model.model.dim
    for name in "ab":
        a, b = (plain_tensor(name, rng.standard_normal(shape)) for shape in ((2, dim), (dim, 2)))
        part = LowRank("model.layers.1.self_attn.q_proj", a, b, 0.5)
        write_adapter(AdapterParts((part,)), tmp_path / name)
        model.add_adapter(name, tmp_path / name)
    path = tmp_path / "p"
    model.save_prompt(path, LONG, adapter={"a": 0.5})
    model.cache.clear()
    model.load_prompt(path, adapter={"a": 0.5})
    assert model.generate(LONG, max_tokens=1, adapter={"a": 0.5}).cached_tokens > 100
    assert model.generate(LONG, max_tokens=1).cached_tokens == 0
    for other in (None, "a", "b", {"a": 0.5, "b": 0.5}):
        with pytest.raises(SourceError, match="other adapters"):
            model.load_prompt(path, adapter=other)


def test_a_context_that_turns_positions_in_another_way_is_refused(tmp_path: Path) -> None:
    path = write_family(FAMILIES["phi3_longrope"], tmp_path / "m.gguf")  # made for 64 tokens
    ids = list(range(5, 30))
    linnet.load(path, n_ctx=64).save_prompt(tmp_path / "p", ids)
    linnet.load(path, n_ctx=50).load_prompt(tmp_path / "p")
    with pytest.raises(SourceError, match="other side of the length"):
        linnet.load(path, n_ctx=65).load_prompt(tmp_path / "p")


# ---- hostile files ------------------------------------------------------------------------


def refused(model: linnet.LanguageModel, path: Path, data: bytes) -> str:
    path.write_bytes(data)
    free = model.workspace.n_free_pages
    with pytest.raises(SourceError) as caught:
        model.load_prompt(path)
    message = str(caught.value)
    del caught  # and the frames it names
    assert model.workspace.n_free_pages == free  # nothing of it stays
    assert str(path) in message and "\n" not in message
    return message


def sections(data: bytes) -> tuple[int, int, int]:
    """Where tokens, digests and pages begin."""
    header_bytes = struct.unpack_from("<I", data, 12)[0]
    n_tokens = json.loads(data[FRONT : FRONT + header_bytes])["n_tokens"]
    tokens = FRONT + header_bytes
    return tokens, tokens + 4 * n_tokens, tokens + 4 * n_tokens + 8 * pages_of(n_tokens)


def test_a_truncated_or_lengthened_file_is_refused(
    model: linnet.LanguageModel, written: Path, tmp_path: Path
) -> None:
    data, path = written.read_bytes(), tmp_path / "p"
    tokens, digests, pages = sections(data)
    begins = (8, 12, 16, FRONT, tokens, digests, pages, len(data))
    for at in (0, 1, (pages + len(data)) // 2, *(at - 1 for at in begins), *begins[:-1]):
        assert "ends too early" in (said := refused(model, path, data[:at])) or "and should have" in said
    assert "should have" in refused(model, path, data + b"\0")


def test_a_flipped_bit_anywhere_is_noticed(
    model: linnet.LanguageModel, written: Path, tmp_path: Path
) -> None:
    data = written.read_bytes()
    tokens, digests, pages = sections(data)
    rng = random.Random(0)
    places = [*range(FRONT), tokens, digests, pages, len(data) - 1]
    places += [rng.randrange(FRONT, pages) for _ in range(100)]
    places += [rng.randrange(pages, len(data)) for _ in range(40)]
    for at in places:
        broken = bytearray(data)
        broken[at] ^= 1 << rng.randrange(8)
        refused(model, tmp_path / "p", bytes(broken))


def forged(data: bytes, **changes: object) -> bytes:
    """A file with another header and a digest that is right."""
    tokens = sections(data)[0]
    pages = sections(data)[2]
    header = {**json.loads(data[FRONT:tokens]), **changes}
    index = json.dumps(header).encode() + data[tokens:pages]
    front = data[:12] + struct.pack("<IQ", len(json.dumps(header)), digest(index))
    return front + index + data[pages:]


@pytest.mark.parametrize(
    "changes",
    [
        {"n_tokens": 2**63}, {"n_tokens": 2**31 - 1}, {"n_tokens": -1}, {"n_tokens": 0}, {"n_tokens": True},
        {"n_tokens": 1e3}, {"n_tokens": "5"}, {"n_tokens": None}, {"n_tokens": [1]},
        {"first_page": -1}, {"first_page": 1}, {"first_page": 2**40}, {"first_page": None},
        {"page_bytes": 0}, {"page_bytes": -64}, {"page_bytes": 2**62}, {"page_bytes": 1},
        {"made": None}, {"made": []}, {"made": {}}, {"made": {"core": {"a": 1}}},
        {"made": {"core": "\x1b[2J\n"}},
        {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_header_is_not_believed(
    changes: dict[str, object], model: linnet.LanguageModel, written: Path, tmp_path: Path
) -> None:
    assert "\x1b" not in refused(model, tmp_path / "p", forged(written.read_bytes(), **changes))


def test_headers_that_are_no_headers_are_refused(
    model: linnet.LanguageModel, written: Path, tmp_path: Path
) -> None:
    data = written.read_bytes()
    for text in (b"", b"[]", b"{", b"[" * 512, b"1" * 512, b"\xff\xfe", b'{"made": {}}', b"null"):
        front = data[:12] + struct.pack("<IQ", len(text), digest(text))
        assert "header cannot be read" in refused(model, tmp_path / "p", front + text + data[400:])
    for n in (513, 2**31, 2**32 - 1):
        assert "header would have" in refused(
            model, tmp_path / "p", data[:12] + struct.pack("<I", n) + data[16:]
        )
    other = data[:8] + struct.pack("<I", 2) + data[12:]
    assert "version 2 of its format" in refused(model, tmp_path / "p", other)


def test_tokens_of_no_vocabulary_are_refused(
    model: linnet.LanguageModel, written: Path, tmp_path: Path
) -> None:
    data = written.read_bytes()
    tokens, digests, _ = sections(data)
    for token in (-1, model.model.vocab_size, 2**31 - 1):
        for at in (tokens, digests - 4):
            changed = data[:at] + struct.pack("<i", token) + data[at + 4 :]
            assert "not in the vocabulary" in refused(model, tmp_path / "p", forged(changed))


def test_a_window_that_is_not_in_the_file_is_missed(tmp_path: Path) -> None:
    model = Model.open(write_family(FAMILIES["mistral"], tmp_path / "m.gguf"))
    session = Session(Workspace(model, n_threads=1), 256)
    session.eval([7] * 250)
    session.truncate(3 * PAGE_TOKENS + 3)  # the window begins in the page before the last
    save_states(session, tmp_path / "p")
    data = (tmp_path / "p").read_bytes()
    header_bytes = struct.unpack_from("<I", data, 12)[0]
    header = json.loads(data[FRONT : FRONT + header_bytes])
    first = header["first_page"]
    text = json.dumps({**header, "first_page": first + 1}).encode()
    tokens_end = FRONT + header_bytes + 4 * header["n_tokens"]
    n_pages = pages_of(header["n_tokens"]) - first
    index = text + data[FRONT + header_bytes : tokens_end] + data[tokens_end + 8 : tokens_end + 8 * n_pages]
    pages = data[tokens_end + 8 * n_pages + header["page_bytes"] :]
    front = data[:12] + struct.pack("<IQ", len(text), digest(index))
    (tmp_path / "p").write_bytes(front + index + pages)
    with pytest.raises(FormatError, match="left the sliding window"):
        load_states(Session(Workspace(model, n_threads=1), 256), tmp_path / "p", 100)


def test_any_states_do_no_harm(model: linnet.LanguageModel, written: Path, tmp_path: Path) -> None:
    """Whoever forges a file gets any text, and other texts stay as they are."""
    data = written.read_bytes()
    _, digests, pages = sections(data)
    forgery = bytearray(data)
    forgery[pages:] = b"\xff" * (len(data) - pages)  # NaNs
    n_pages = (digests - pages) // -8
    page_bytes = (len(data) - pages) // n_pages
    forgery[digests:pages] = struct.pack("<Q", digest(b"\xff" * page_bytes)) * n_pages
    forgery[16:FRONT] = struct.pack("<Q", digest(bytes(forgery[FRONT:pages])))
    (tmp_path / "p").write_bytes(forgery)
    victim = linnet.load(threads=1)
    victim.load_prompt(tmp_path / "p")
    try:
        assert victim.generate(LONG, max_tokens=5).cached_tokens > 0
    except LinnetError:
        pass  # no logit is finite
    victim.cache.clear()
    assert victim.generate(LONG, max_tokens=20, seed=1).ids == model.generate(LONG, max_tokens=20, seed=1).ids


# ---- linnet run -----------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], path: Path, prompt: str, *more: str) -> dict[str, object]:
    flags = ("--prompt-cache", str(path), "--json", "--seed", "1", "-n", "12", "--threads", "1")
    assert main(["run", *flags, *more, prompt]) == 0
    return json.loads(capsys.readouterr().out)


def test_run_goes_on_from_the_file_and_leaves_the_last_prompt_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "p"
    first = run(capsys, path, LONG + "The end")
    assert first["cached_tokens"] == 0
    before = path.stat().st_ino, path.stat().st_mtime_ns
    again = run(capsys, path, LONG + "The end")
    assert again["cached_tokens"] == first["prompt_tokens"] - 1
    assert again["text"] == first["text"]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before  # it holds all of the prompt: not written
    other = run(capsys, path, LONG + "Then Max")
    assert other["cached_tokens"] > 100
    assert path.stat().st_mtime_ns != before[1]
    assert run(capsys, path, LONG + "Then Max said")["cached_tokens"] == other["prompt_tokens"]


def test_a_file_that_holds_what_the_limit_allows_is_not_written_again(
    capsys: pytest.CaptureFixture[str], model: linnet.LanguageModel, tmp_path: Path
) -> None:
    limit = ("--prompt-cache-limit", str(model.session.n_bytes + 2 * model.workspace.page_bytes))
    run(capsys, tmp_path / "p", LONG, *limit)
    before = (tmp_path / "p").stat().st_ino
    assert run(capsys, tmp_path / "p", LONG, *limit)["cached_tokens"] >= PAGE_TOKENS
    assert (tmp_path / "p").stat().st_ino == before


def test_a_prompt_is_kept_even_where_its_text_left_the_window(tmp_path: Path) -> None:
    path = write_family(FAMILIES["mistral"], tmp_path / "m.gguf")
    ids = [5 + i * 7 % 80 for i in range(60)]
    texts = []
    for known in (0, 59):
        model = linnet.load(path, threads=1)
        with prompt_kept_in(tmp_path / "p", model.cache, (), pytest.fail):
            made = model.generate(ids, max_tokens=190, temperature=0, ends=())
        assert made.cached_tokens == known
        texts.append(made.ids)
    assert texts[0] == texts[1] and len(texts[0]) == 190


@pytest.mark.filterwarnings("ignore:this model has no chat template")
def test_a_conversation_goes_on_in_another_process(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": STORY}]
    first, second = linnet.load(threads=1), linnet.load(threads=1)
    with prompt_kept_in(tmp_path / "p", first.cache, (), pytest.fail):
        for question in ("Who is Max?", "And Lily?"):
            answer = first.chat(messages, max_tokens=10, temperature=0)
            messages += [answer.message, {"role": "user", "content": question}]
        expected = first.chat(messages, max_tokens=10, temperature=0)
        asked = expected.generation.prompt_tokens
    messages += [expected.message, {"role": "user", "content": "The end?"}]
    with prompt_kept_in(tmp_path / "p", second.cache, (), pytest.fail):
        answer = second.chat(messages, max_tokens=10, temperature=0)
    assert asked - 8 <= answer.usage["cached_tokens"] <= asked
    assert answer.text == linnet.load().chat(messages, max_tokens=10, temperature=0).text


def test_the_last_prompt_gives_way_to_a_text_that_needs_its_memory(tmp_path: Path) -> None:
    model = linnet.load(threads=1, n_ctx=2 * PAGE_TOKENS)
    with prompt_kept_in(tmp_path / "p", model.cache, (), pytest.fail):
        model.generate(STORY, max_tokens=1)
        sessions = [model.open_session() for _ in range(4)]
        model.workspace.eval([(session, [5] * 2 * PAGE_TOKENS) for session in sessions])
        assert model.workspace.n_free_pages == 0
        del sessions
    assert not (tmp_path / "p").exists()


def test_run_refuses_what_cannot_be(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for flags, reason in (
        (("--prompt-cache", str(tmp_path / "p"), "--ram", "1G"), "leave out --prompt-cache or --ram"),
        (("--prompt-cache", str(tmp_path)), "is a folder"),
        (("--prompt-cache", str(tmp_path / "none" / "p")), "there is no folder"),
        (("--prompt-cache", "/dev/zero"), "not a regular file"),
    ):
        assert main(["run", *flags, "-n", "1", "x"]) == 2
        said = capsys.readouterr()
        assert reason in said.err and not said.out


def test_a_link_stands_for_the_file_behind_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "kept" / "p"
    link.symlink_to(target)
    assert main(["run", "--prompt-cache", str(link), "-n", "1", "x"]) == 2
    assert f"cannot write {link}: there is no folder {target.parent}" in capsys.readouterr().err
    with pytest.raises(SourceError, match=r"is a link to .*/kept/p, which does not exist"):
        linnet.load(threads=1).load_prompt(link)
    target.parent.mkdir()
    assert run(capsys, link, STORY)["cached_tokens"] == 0  # a file that is not there yet is made
    assert link.is_symlink() and target.is_file()
    assert run(capsys, link, STORY + "Then Max")["cached_tokens"] > 20
    link.unlink()
    link.symlink_to(link)
    assert main(["run", "--prompt-cache", str(link), "-n", "1", "x"]) == 2
    assert "symbolic links" in capsys.readouterr().err


def test_a_text_is_there_though_its_prompt_could_not_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise TargetError("no space left on the device")

    monkeypatch.setattr("linnet.engine.states.save_states", full)
    assert main(["run", "Hi", "-n", "4", "--json", "--prompt-cache", str(tmp_path / "p")]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["tokens"] == 4
    assert "the prompt was not kept: no space left on the device" in said.err


@pytest.mark.parametrize("kept", ["", STORY])
def test_a_prompt_that_was_interrupted_is_not_said_to_be_known(
    kept: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flags = tmp_path / "p", ("-n", "4", "--threads", "1")
    known = linnet.load(threads=1).save_prompt(path, kept) if kept else 0
    evaluate = Session.eval

    def interrupt(session: Session, ids: list[int]) -> None:
        evaluate(session, ids)
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "eval", interrupt)
    for form in ("--json", "--no-json"):
        assert main(["run", LONG * 3, *flags, form, "--prompt-cache", str(path)]) == cli.INTERRUPTED
    said = capsys.readouterr()
    made = json.loads(said.out)
    assert (made["cached_tokens"], made["tokens"]) == (known, 0) and made["prompt_tokens"] > known + 256
    line = f"{known} of {made['prompt_tokens']} prompt tokens known, 256 evaluated: it was interrupted"
    assert line in said.err and path.exists() == bool(kept)


def test_a_limit_in_which_no_prompt_fits_is_said_before_the_text_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p"
    assert main(["run", "Hi", "-n", "4", "--prompt-cache", str(path), "--prompt-cache-limit", "1000"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "the limit is 1,000" in said.err and not path.exists()
