"""Training: shape, packing, loss, update rules, exact resume, and the checkpoint at the end."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")

from linnet.data.corpus import data  # noqa: E402
from linnet.errors import FormatError, SourceError, TargetError, TrainingError, UsageError  # noqa: E402
from linnet.formats import atomic as atomic_module  # noqa: E402
from linnet.formats.corpus import Corpus  # noqa: E402
from linnet.options import DataOptions, TrainOptions  # noqa: E402
from linnet.train import loss as loss_module  # noqa: E402
from linnet.train.batches import Batch, PackedBatches, packed  # noqa: E402
from linnet.train.loop import Progress, StepReport, train_steps  # noqa: E402
from linnet.train.loss import IGNORE, linear_cross_entropy  # noqa: E402
from linnet.train.model import Decoder, document_mask, initialise  # noqa: E402
from linnet.train.optim import Optimizer, orthogonal  # noqa: E402
from linnet.train.output import exclusive  # noqa: E402
from linnet.train.pretrain import train  # noqa: E402
from linnet.train.schedule import cosine, wsd  # noqa: E402
from linnet.train.shape import BatchShape, derive_shape  # noqa: E402
from linnet.train.state import load_best, load_state, restore, save_state  # noqa: E402
from linnet.train.step import pretraining_loss  # noqa: E402
from linnet.train.watch import Sampler, Validation  # noqa: E402
from linnet.types import ModelFacts  # noqa: E402

TINY = ModelFacts(
    "llama", dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, ffn_dim=96,
    vocab_size=101, max_seq_len=64,
)  # fmt: skip
SMALL_RUN = {"params": 120_000, "shape": "max_seq_len=64", "batch": "tokens=512,sequences=2"}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """At these sizes a second thread costs more than it does, above all on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of made-up sentences, vocabulary 300."""
    folder = tmp_path_factory.mktemp("corpus")
    chance = random.Random(0)
    words = "the a bird fox river tree old small sings runs sleeps near under and then home night day".split()
    rows = [" ".join(chance.choices(words, k=chance.randint(10, 60))) + "." for _ in range(400)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    data(
        DataOptions(
            sources=(str(folder / "text.jsonl"),), output=folder / "corpus", vocab_size=300, validation=0.05
        )
    )
    return folder / "corpus"


class FakeStream:
    """Ids in memory."""

    def __init__(self, ids: Any) -> None:
        self.ids = np.asarray(ids, np.uint16)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, stop: int) -> Any:
        return self.ids[start:stop]


def tiny_model(seed: int = 0) -> Decoder:
    model = Decoder(TINY)
    initialise(model, seed)
    return model


def documents(n: int, bos: int, eos: int, seed: int = 0) -> list[int]:
    """``n`` documents of random ids."""
    chance = random.Random(seed)
    ids: list[int] = [bos] if bos == eos else []
    for _ in range(n):
        body = [chance.randrange(2, TINY.vocab_size) for _ in range(chance.randint(1, 30))]
        ids += [*body, eos] if bos == eos else [bos, *body, eos]
    return ids


# ---- packing -------------------------------------------------------------------------


@pytest.mark.parametrize(("bos", "eos"), [(0, 0), (0, 1)])
def test_a_document_does_not_see_the_one_before_it(bos: int, eos: int) -> None:
    model, chance = tiny_model(), torch.Generator().manual_seed(1)
    document = torch.cat([torch.tensor([bos]), torch.randint(2, 101, (20,), generator=chance)])
    before = torch.cat([torch.tensor([bos]), torch.randint(2, 101, (30,), generator=chance)])
    if eos != bos:
        before = torch.cat([before, torch.tensor([eos])])
    row = torch.cat([before, document])[None]
    with torch.no_grad():
        alone = model.logits(document[None], document_mask(document[None], bos))
        together = model.logits(row, document_mask(row, bos))[:, len(before) :]
        leaking = model.logits(row)[:, len(before) :]
    assert torch.allclose(alone, together, atol=1e-5)
    assert not torch.allclose(alone, leaking, atol=1e-2)


def test_the_border_between_documents_carries_no_loss() -> None:
    window = np.array([[0, 5, 6, 1, 0, 7, 1, 0, 8]])
    assert packed(window, 0, 1).targets.tolist() == [[5, 6, 1, IGNORE, 7, 1, IGNORE, 8]]
    shared = np.array([[0, 5, 6, 0, 7, 0, 8]])
    assert packed(shared, 0, 0).targets.tolist() == [[5, 6, 0, 7, 0, 8]]


def test_an_epoch_reads_every_row_once_in_an_order_of_its_own() -> None:
    stream, shape = FakeStream(np.arange(1000)), BatchShape(tokens=40, sequences=2, length=10)
    batches = PackedBatches(stream, (0, 0), shape, seed=3)
    steps = batches.rows_per_epoch // batches.rows_per_step
    firsts = [
        int(row[0]) for step in range(2 * steps + 2) for micro in range(batches.micro_steps)
        for row in batches.read(step, micro).tokens
    ]  # fmt: skip
    epoch, second = (
        firsts[: batches.rows_per_epoch],
        firsts[batches.rows_per_epoch : 2 * batches.rows_per_epoch],
    )
    assert len(set(epoch)) == batches.rows_per_epoch and len({first % 10 for first in epoch}) == 1
    assert epoch != second
    again = PackedBatches(stream, (0, 0), shape, seed=3)
    assert torch.equal(again.read(7, 1).tokens, batches.read(7, 1).tokens)


def test_processes_share_the_rows_of_a_step() -> None:
    stream, shape = FakeStream(documents(200, 0, 1)), BatchShape(tokens=320, sequences=2, length=20)
    alone = PackedBatches(stream, (0, 1), shape, seed=0)
    pair = [PackedBatches(stream, (0, 1), shape, seed=0, rank=rank, world=2) for rank in (0, 1)]
    rows = torch.cat([alone.read(3, m).tokens for m in range(alone.micro_steps)])
    shared = torch.cat([p.read(3, m).tokens for m in range(pair[0].micro_steps) for p in pair])
    assert torch.equal(rows, shared)
    counted = sum(int((alone.read(3, m).targets != IGNORE).sum()) for m in range(alone.micro_steps))
    assert alone.supervised(3) == counted == pair[1].supervised(3) < shape.tokens


# ---- loss ----------------------------------------------------------------------------


def test_the_fused_loss_is_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "_CHUNK_ELEMENTS", 7 * 50)  # several chunks, the last one short
    hidden = torch.randn(33, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 16, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 50, (33,))
    targets[[0, 13, 32]] = IGNORE
    expected = torch.nn.functional.cross_entropy(
        hidden @ weight.t(), targets, ignore_index=IGNORE, reduction="sum"
    )
    wanted = torch.autograd.grad(expected * 0.3, (hidden, weight))
    found = linear_cross_entropy(hidden, weight, targets)
    got = torch.autograd.grad(found * 0.3, (hidden, weight))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    for a, b in zip(got, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_fused_loss_works_in_bf16() -> None:
    hidden, weight = torch.randn(64, 32, requires_grad=True), torch.randn(80, 32, requires_grad=True)
    targets = torch.randint(0, 80, (64,))
    exact = linear_cross_entropy(hidden, weight, targets)
    (wanted,) = torch.autograd.grad(exact, hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = linear_cross_entropy(hidden, weight, targets)
    (got,) = torch.autograd.grad(rounded, hidden)
    assert rounded.dtype == torch.float32 and rounded.item() == pytest.approx(exact.item(), rel=1e-2)
    assert rounded.item() != exact.item()
    assert (got - wanted).norm() < 0.02 * wanted.norm()


def test_rounding_stands_in_for_bf16_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without units, bf16 gives the same loss up to its own precision, and not the loss of f32."""
    batch = packed(np.array(documents(80, 0, 0)[:528]).reshape(16, 33), 0, 0)
    losses = {}
    for units in (True, False):
        monkeypatch.setattr("linnet.train.step.has_bf16_units", lambda device, units=units: units)
        model = tiny_model()
        losses[units] = pretraining_loss(model, "bf16")(batch).item()
        assert model.rounds is not units
    exact = pretraining_loss(tiny_model(), "f32")(batch).item()
    assert losses[False] == pytest.approx(losses[True], rel=1e-3)
    assert losses[False] == pytest.approx(exact, rel=1e-3) and losses[False] != exact


def run_tiny(model: Decoder, shape: BatchShape, n_steps: int = 3, kind: str = "muon") -> list[StepReport]:
    batches = PackedBatches(FakeStream(documents(300, 0, 1)), (0, 1), shape, seed=0)
    optimizer = Optimizer(model, kind, learning_rate=3e-3, weight_decay=0.1)
    reports: list[StepReport] = []
    train_steps(
        model, tiny_loss(model), batches, optimizer, wsd(0.1, 0.2), Progress(n_steps), (reports.append,)
    )
    return reports


def tiny_loss(model: Decoder) -> Callable[[Batch], Any]:
    def loss_of(batch: Batch) -> Any:
        hidden = model(batch.tokens, batch.mask)
        return linear_cross_entropy(hidden.flatten(0, 1), model.head_weight, batch.targets.flatten())

    return loss_of


def test_accumulation_weights_by_tokens() -> None:
    """Micro-batches hold different numbers of supervised tokens, so a mean of means would differ."""
    whole, parts = tiny_model(), tiny_model()
    one = run_tiny(whole, BatchShape(tokens=256, sequences=8, length=32), kind="adamw")
    four = run_tiny(parts, BatchShape(tokens=256, sequences=2, length=32), kind="adamw")
    for a, b in zip(one, four, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=1e-5)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-4)


def test_a_training_that_diverges_stops_before_it_spoils_the_weights() -> None:
    model = tiny_model()
    batches = PackedBatches(FakeStream(list(range(1, 60)) * 4), (0, 0), BatchShape(32, 1, 16), seed=0)
    optimizer = Optimizer(model, "adamw", 1e30, 0.0)
    progress = Progress(50)
    with pytest.raises(TrainingError, match=r"diverged.*learning_rate"):
        train_steps(model, tiny_loss(model), batches, optimizer, wsd(0.0, 0.2), progress)
    assert 0 < progress.step < 50
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_no_supervised_token_is_a_hard_stop() -> None:
    model = tiny_model()
    batches = PackedBatches(FakeStream([0] * 100), (0, 1), BatchShape(32, 1, 16), seed=0)
    with pytest.raises(SourceError, match="no token of step 1 carries loss"):
        train_steps(
            model, tiny_loss(model), batches, Optimizer(model, "adamw", 1e-3, 0.0), wsd(0.1, 0.2), Progress(1)
        )


# ---- update rules and schedules ---------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 48, 48), (2, 32, 96), (2, 96, 32)])
def test_newton_schulz_gives_singular_values_near_one(shape: tuple[int, ...]) -> None:
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.4 and values.max() < 1.3


def test_muon_takes_the_hidden_matrices_and_moves_them_as_far_as_adamw() -> None:
    moved = {}
    for kind in ("muon", "adamw"):
        model = tiny_model()
        before = {name: w.detach().clone() for name, w in model.named_parameters()}
        optimizer = Optimizer(model, kind, learning_rate=1e-2, weight_decay=0.0)
        tiny_loss(model)(packed(np.array(documents(40, 0, 0)[:264]).reshape(8, 33), 0, 0)).backward()
        optimizer.step(1.0)
        moved[kind] = {name: (w - before[name]).detach() for name, w in model.named_parameters()}
    name = "model.layers.0.mlp.up_proj.weight"
    muon_size, adamw_size = (
        moved["muon"][name].square().mean().sqrt(),
        moved["adamw"][name].square().mean().sqrt(),
    )
    assert torch.linalg.matrix_rank(moved["muon"][name], rtol=0.1) == 64
    assert 0.1 < muon_size / adamw_size < 1.0
    assert torch.equal(
        moved["muon"]["model.embed_tokens.weight"], moved["adamw"]["model.embed_tokens.weight"]
    )


def test_schedules() -> None:
    factor = wsd(0.1, 0.25)
    assert factor(0.05) == pytest.approx(0.5) and factor(0.5) == 1.0 and factor(1.0) == pytest.approx(0.0)
    assert all(factor(0.75 + 0.01 * i) >= factor(0.76 + 0.01 * i) for i in range(24))
    curve = cosine(0.1, 0.0)
    assert (
        curve(0.1) == pytest.approx(1.0)
        and curve(0.55) == pytest.approx(0.5)
        and curve(1.0) == pytest.approx(0.0)
    )


def test_training_learns() -> None:
    model = tiny_model()
    pattern = FakeStream(([0] + list(range(2, 20))) * 60)
    batches = PackedBatches(pattern, (0, 0), BatchShape(128, 4, 32), seed=0)
    reports: list[StepReport] = []
    optimizer = Optimizer(model, "muon", 1e-2, 0.0)
    train_steps(model, tiny_loss(model), batches, optimizer, wsd(0.1, 0.3), Progress(40), (reports.append,))
    assert reports[0].loss > 4.0 and reports[-1].loss < 0.1


# ---- state ----------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [1, 6, 8])  # micro-batches: inside a step, and after its last one
def test_a_stop_inside_a_step_resumes_bit_for_bit(tmp_path: Path, stop_at: int) -> None:
    shape = BatchShape(tokens=256, sequences=2, length=32)
    stream = FakeStream(documents(300, 0, 1))

    def parts() -> tuple[Decoder, PackedBatches, Optimizer]:
        model = tiny_model()
        return model, PackedBatches(stream, (0, 1), shape, seed=0), Optimizer(model, "muon", 3e-3, 0.1)

    straight, batches, optimizer = parts()
    train_steps(straight, tiny_loss(straight), batches, optimizer, wsd(0.1, 0.2), Progress(5))

    model, batches, optimizer = parts()
    progress, calls, exact = Progress(5), 0, tiny_loss(model)

    def interrupted(batch: Batch) -> Any:
        nonlocal calls
        calls += 1
        progress.stop = signal.SIGTERM if calls == stop_at else 0
        return exact(batch)

    train_steps(model, interrupted, batches, optimizer, wsd(0.1, 0.2), progress)
    assert calls == stop_at and not progress.done
    save_state(tmp_path, {}, model, optimizer, progress, {})

    model, batches, optimizer = parts()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    progress = restore(load_state(tmp_path), model, optimizer)
    train_steps(model, tiny_loss(model), batches, optimizer, wsd(0.1, 0.2), progress)
    for name, weight in straight.named_parameters():
        assert torch.equal(weight, model.get_parameter(name)), name


def test_a_damaged_state_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nothing to resume"):
        load_state(tmp_path)
    model = tiny_model()
    save_state(tmp_path, {}, model, Optimizer(model, "adamw", 1e-3, 0.0), Progress(1), {})
    file = tmp_path / "state" / "run.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(FormatError, match="cannot read the state"):
        load_state(tmp_path)


# ---- the whole verb ----------------------------------------------------------------------

DRIVER = """
import sys
from pathlib import Path
from linnet.options import TrainOptions
from linnet.train import run
from linnet.train.pretrain import train
run.SAVE_SECONDS = 0.0
options = dict(params=120_000, shape="max_seq_len=64", batch="tokens=512,sequences=2", epochs=1.5,
               hyper="dropout=0.1", resume="--resume" in sys.argv)
train(TrainOptions(corpus=Path(sys.argv[1]), output=Path(sys.argv[2]), **options))
"""


def start(corpus: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-c", DRIVER, str(corpus), str(output), *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def stop_after_first_step(process: subprocess.Popen[str], number: int) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 1/"):
            break
    time.sleep(0.15)
    process.send_signal(number)
    return process.communicate(timeout=600)[1]


def read_weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_kill_and_interrupt_then_resume_gives_the_same_bits(corpus_folder: Path, tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(TrainOptions(corpus=corpus_folder, output=straight, epochs=1.5, hyper="dropout=0.1", **SMALL_RUN))

    killed = start(corpus_folder, broken)
    stop_after_first_step(killed, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL and not (broken / "model.safetensors").exists()
    first = load_state(broken)["progress"]

    interrupted = start(corpus_folder, broken, "--resume")
    assert interrupted.stderr is not None
    for line in interrupted.stderr:
        if line.startswith("resumed"):
            break
    time.sleep(0.2)
    interrupted.send_signal(signal.SIGINT)
    message = interrupted.communicate(timeout=600)[1]
    assert interrupted.returncode == 130 and "--resume" in message and "Traceback" not in message
    second = load_state(broken)["progress"]
    assert 0 < first["step"] <= second["step"] < second["n_steps"]

    rest = start(corpus_folder, broken, "--resume")
    rest.communicate(timeout=600)
    assert rest.returncode == 0
    expected, found = read_weights(straight), read_weights(broken)
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        assert torch.equal(weight, found[name]), name
    curves = [
        json.loads((folder / "report.json").read_text())["plots"][0]["lines"] for folder in (straight, broken)
    ]
    assert curves[0] == curves[1]


@pytest.fixture(scope="module")
def trained(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("trained") / "checkpoint"
    return output, train(TrainOptions(corpus=corpus_folder, output=output, epochs=1.0, **SMALL_RUN))


def test_the_checkpoint_loads_in_transformers(
    trained: tuple[Path, dict[str, Any]], corpus_folder: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    output, _ = trained
    theirs = transformers.AutoModelForCausalLM.from_pretrained(output)
    tokenizer = transformers.AutoTokenizer.from_pretrained(output)
    config = theirs.config
    facts = derive_shape(SMALL_RUN["params"], config.vocab_size, {"max_seq_len": 64})
    ours = Decoder(facts)
    ours.load_state_dict(read_weights(output))
    ids = torch.from_numpy(Corpus.open(corpus_folder).split("train").read(0, 60).astype(np.int64))[None]
    with torch.no_grad():
        assert torch.allclose(ours.logits(ids), theirs(ids).logits, atol=1e-4)
    assert tokenizer.decode(ids[0], skip_special_tokens=True)
    assert config.tie_word_embeddings and config.bos_token_id == Corpus.open(corpus_folder).bos_id


def test_results_and_report(trained: tuple[Path, dict[str, Any]]) -> None:
    output, results = trained
    report = json.loads((output / "report.json").read_text())
    assert report["results"] == results and report["verb"] == "train"
    assert results["nats_per_token"] < math.log(300) - 0.5 and 0 < results["bits_per_byte"] < 8
    curve = report["plots"][0]["lines"]["training"]
    assert len(curve) == results["steps"] and curve[0][1] > curve[-1][1]
    page = (output / "report.html").read_text()
    assert page.count("<svg") == 4 and "<script" not in page and 'src="' not in page
    assert report["texts"][-1]["body"]


@pytest.mark.parametrize(
    "more", [{"dtype": "bf16"}, {"optimizer": "adamw", "hyper": "schedule=cosine,dropout=0.1"}]
)
def test_other_settings_train_too(more: dict[str, str], corpus_folder: Path, tmp_path: Path) -> None:
    results = train(
        TrainOptions(corpus=corpus_folder, output=tmp_path / "out", tokens=4096, **SMALL_RUN, **more)
    )
    assert results["steps"] == 8 and results["train_loss"] < math.log(300)


def test_a_time_budget_becomes_a_number_of_steps(corpus_folder: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    results = train(TrainOptions(corpus=corpus_folder, output=tmp_path / "out", minutes=0.03, **SMALL_RUN))
    assert results["steps"] > 1 and time.monotonic() - started < 60
    assert load_state(tmp_path / "out")["progress"]["n_steps"] == results["steps"]


def test_bad_use_is_named(corpus_folder: Path, tmp_path: Path, trained: tuple[Path, dict[str, Any]]) -> None:
    def attempt(**more: Any) -> None:
        train(
            TrainOptions(
                **{"corpus": corpus_folder, "output": tmp_path / "out", "tokens": 4096, **SMALL_RUN, **more}
            )
        )

    with pytest.raises(SourceError, match="not a corpus"):
        attempt(corpus=tmp_path)
    with pytest.raises(SourceError, match="nothing to resume"):
        attempt(resume=True)
    with pytest.raises(TargetError, match="holds a run"):
        attempt(output=trained[0])
    with pytest.raises(UsageError, match="--batch differs"):
        attempt(output=trained[0], resume=True, batch="tokens=1024,sequences=2")
    for name, value in {"tokens": 5000, "epochs": 7.0, "minutes": 3.0}.items():
        with pytest.raises(UsageError, match=f"--{name} differs"):
            attempt(**{"output": trained[0], "resume": True, "tokens": None, "epochs": 1.0, name: value})
    with pytest.raises(UsageError, match=r"'1\.5' is not a whole number"):
        attempt(shape="n_layers=1.5")
    with pytest.raises(UsageError, match="dim is given twice"):
        attempt(shape="dim=32,dim=64")
    with pytest.raises(UsageError, match="learning_rat"):
        attempt(hyper="learning_rat=1")
    with pytest.raises(UsageError, match="'nan' is not a number"):
        attempt(hyper="learning_rate=nan")
    for seed in (-1, 1 << 64):
        with pytest.raises(UsageError, match="--seed"):
            attempt(seed=seed)
    with pytest.raises(UsageError, match="above 0"):
        attempt(tokens=0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(TargetError, match="cannot write"):
        attempt(output=tmp_path / "file" / "out")
    with pytest.raises(SourceError, match="fewer than one row"):
        attempt(shape="max_seq_len=100000", batch="")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(TargetError, match=r"thesis\.txt"):
        attempt(output=tmp_path / "full")
    assert not (tmp_path / "out").exists()


def test_the_best_weights_are_kept(
    tmp_path: Path, corpus_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A validation loss that rises after its first measurement, as when a model overfits."""
    losses = iter([(2.0, 1.0), (2.5, 1.2), (3.0, 1.5), (3.5, 1.8), (4.0, 2.0)])
    monkeypatch.setattr(Validation, "measure", lambda self: next(losses))
    output = tmp_path / "out"
    results = train(TrainOptions(corpus=corpus_folder, output=output, epochs=2.0, **SMALL_RUN))
    first = json.loads((output / "report.json").read_text())["plots"][0]["lines"]["validation"][0][0]
    assert results["kept_step"] == first < results["steps"] and results["nats_per_token"] == 2.0
    written, name = read_weights(output), "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(written[name], load_best(output)[name])
    assert not torch.equal(written[name], load_state(output)["model"][name])


def test_a_budget_below_one_step_trains_one_and_says_so(
    corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = train(TrainOptions(corpus=corpus_folder, output=tmp_path / "out", tokens=1, **SMALL_RUN))
    assert results["steps"] == 1 and "one step of 512 tokens, the least" in capsys.readouterr().err


def test_weights_that_are_no_longer_finite_end_the_run(corpus_folder: Path) -> None:
    corpus = Corpus.open(corpus_folder)
    model = Decoder(derive_shape(120_000, corpus.vocab_size, {"max_seq_len": 64}))
    initialise(model, 0)
    with torch.no_grad():
        model.head_weight.fill_(math.nan)
        windows = np.zeros((2, 33), np.int64)
        for look in (
            Validation(pretraining_loss(model, "f32"), windows + 2, corpus).measure,
            Sampler(model, corpus, 0).sample,
        ):
            with pytest.raises(TrainingError, match="smaller --hyper learning_rate"):
                look()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_while_the_state_is_saved_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    parts = {}, model, Optimizer(model, "adamw", 1e-3, 0.0), Progress(1), {}
    save_state(tmp_path, *parts)
    before = (tmp_path / "state" / "run.pt").read_bytes()

    def on_full_disk(path: Path) -> BinaryIO:
        path.touch()
        return open("/dev/full", "wb", buffering=0)

    monkeypatch.setattr(atomic_module, "open", lambda path, mode: on_full_disk(path), raising=False)
    with pytest.raises(TargetError, match="No space left"):
        save_state(tmp_path, *parts)
    assert (tmp_path / "state" / "run.pt").read_bytes() == before
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["run.pt"]


def test_two_runs_do_not_write_one_output(corpus_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "out"
    with exclusive(output):
        with pytest.raises(TargetError, match="another run is writing"):
            train(TrainOptions(corpus=corpus_folder, output=output, tokens=512, **SMALL_RUN))
        assert (output / "state" / "lock").exists()
    assert not (tmp_path / "new").exists()
