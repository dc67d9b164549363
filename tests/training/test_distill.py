"""distill(): the full size stays as it was, small sizes are the tower's, everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from matryoshka2d import ElasticEncoder, UserError, distill, export_model, fit, open_engine, rotate, train
from matryoshka2d.training import distillation
from matryoshka2d.training.tower_training import Schedule, TowerData, TowerTraining, learning_rate_share
from tests.tiny import TEXTS, WORDS, sentence_model

SIZES = ["1x8", "2x32", "3x32", "4x32", "4x8"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of 120 random texts."""
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS.split(), rng.integers(3, 9))) for _ in range(120)]
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(dict.fromkeys(lines)) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random model."""
    return sentence_model(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def made(source: str, texts: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with a tower of two layers."""
    output = tmp_path_factory.mktemp("made") / "model"
    distill(model=source, data=texts, output=str(output), layers=2, steps=20, device="cpu", quiet=True)
    return str(output)


def test_full_size_is_bit_for_bit_the_same(source: str, made: str) -> None:
    before, after = ElasticEncoder(source, device="cpu"), ElasticEncoder(made, device="cpu")
    for size in ("3x32", "4x32", "4x8"):
        np.testing.assert_array_equal(after.encode(TEXTS, size=size), before.encode(TEXTS, size=size))
    stock = SentenceTransformer(made, device="cpu")
    np.testing.assert_array_equal(
        stock.encode(TEXTS), SentenceTransformer(source, device="cpu").encode(TEXTS)
    )
    weights = SentenceTransformer(source, device="cpu").state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in stock.state_dict().items())


def test_small_sizes_come_nearer_to_the_full_size(source: str, made: str) -> None:
    before, after = ElasticEncoder(source, device="cpu"), ElasticEncoder(made, device="cpu")
    full = before.encode(TEXTS, size="4x32")
    for layers in (1, 2):
        old = (before.encode(TEXTS, size=f"{layers}x32") * full).sum(axis=1).mean()
        new = (after.encode(TEXTS, size=f"{layers}x32") * full).sum(axis=1).mean()
        assert new > old + 0.1
    for old, new in after.record["distill"]["cosines"].values():
        assert new > old


def test_a_small_size_is_the_tower_s(made: str) -> None:
    encoder, tower = ElasticEncoder(made, device="cpu"), ElasticEncoder(f"{made}/shallow", device="cpu")
    assert encoder.tower is not None
    assert (encoder.depth, encoder.tower.depth) == (4, 2)
    for size in ("1x8", "1x32", "2x8", "2x32"):
        np.testing.assert_allclose(
            encoder.encode(TEXTS, size=size), tower.encode(TEXTS, size=size), atol=1e-6
        )
    exits = encoder.exits(TEXTS)
    assert sorted(exits) == [1, 2, 3, 4]
    for n, vectors in exits.items():
        np.testing.assert_allclose(vectors, encoder.encode(TEXTS, size=f"{n}x32"), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_every_way_to_a_size_gives_the_same(made: str, size: str, tmp_path: Path) -> None:
    wanted = ElasticEncoder(made, device="cpu").encode(TEXTS, size=size)
    alone = ElasticEncoder(made, size=size, device="cpu")
    np.testing.assert_allclose(alone.encode(TEXTS), wanted, atol=1e-5)
    assert alone.depth == int(size[0])
    plain = ElasticEncoder(made, device="cpu").truncate(size)
    np.testing.assert_allclose(plain.encode(TEXTS), wanted, atol=1e-5)
    export_model(made, tmp_path / "small", size=size)
    exported = SentenceTransformer(str(tmp_path / "small"), device="cpu")
    np.testing.assert_allclose(exported.encode(TEXTS), wanted, atol=1e-5)
    for engine in (open_engine(made, "torch", "fp32", "cpu"), open_engine(made, size=size, precision="fp32")):
        np.testing.assert_allclose(engine.embed(TEXTS, size), wanted, atol=1e-5)


def test_a_small_size_reads_nothing_of_the_full_model(made: str) -> None:
    whole, small = ElasticEncoder(made, device="cpu"), ElasticEncoder(made, size="2x8", device="cpu")
    assert small.tower is None
    tower = whole.tower
    assert tower is not None
    assert sum(w.numel() for w in small.parameters()) == sum(w.numel() for w in tower.parameters())


def test_saved_and_loaded_it_is_the_same(made: str, tmp_path: Path) -> None:
    encoder = ElasticEncoder(made, device="cpu")
    encoder.save(str(tmp_path / "again"))
    again = ElasticEncoder(str(tmp_path / "again"), device="cpu")
    for size in SIZES:
        np.testing.assert_array_equal(again.encode(TEXTS, size=size), encoder.encode(TEXTS, size=size))


def test_other_architectures(texts: str, tmp_path: Path) -> None:
    source = sentence_model(tmp_path / "source", "modernbert", prompts={"query": "query : "})
    output = str(tmp_path / "model")
    encoder = distill(model=source, data=texts, output=output, layers=3, steps=10, device="cpu", quiet=True)
    engine = open_engine(output, precision="fp32", device="cpu")
    for size in ("1x32", "3x16", "4x32"):
        np.testing.assert_allclose(
            engine.embed(TEXTS, size, prompt_name="query"),
            encoder.encode(TEXTS, size=size, prompt_name="query"),
            atol=1e-5,
        )


def test_the_tower_turns_with_the_space(made: str, texts: str, tmp_path: Path) -> None:
    before = ElasticEncoder(made, device="cpu").exits(TEXTS)
    turned = rotate(model=made, data=texts, output=str(tmp_path / "turned"), device="cpu", quiet=True)
    after = turned.exits(TEXTS)
    for n in before:
        np.testing.assert_allclose(after[n] @ after[4].T, before[n] @ before[4].T, atol=1e-4)
    again = ElasticEncoder(str(tmp_path / "turned"), device="cpu")
    np.testing.assert_allclose(again.exits(TEXTS)[2], after[2], atol=1e-6)


def test_the_onnx_engine_agrees(made: str) -> None:
    pytest.importorskip("onnxruntime")
    encoder, engine = ElasticEncoder(made, device="cpu"), open_engine(made, "onnx", "fp32")
    for size in SIZES:
        np.testing.assert_allclose(engine.embed(TEXTS, size), encoder.encode(TEXTS, size=size), atol=1e-4)


@pytest.mark.parametrize("part", [4096, 25])
def test_a_killed_run_goes_on_to_the_same_model(
    source: str, texts: str, tmp_path: Path, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "_PART", part)
    choices = {
        "model": source,
        "data": texts,
        "layers": 2,
        "batch_tokens": 64,
        "device": "cpu",
        "quiet": True,
    }
    whole = distill(output=str(tmp_path / "whole"), steps=130, **choices)

    def kill(training: TowerTraining, after_step: object) -> None:
        def dying(progress: object) -> None:
            after_step(progress)  # type: ignore[operator]
            if progress.step == 110:  # type: ignore[attr-defined]
                raise KeyboardInterrupt

        run(training, dying)

    run = TowerTraining.run
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TowerTraining, "run", kill)
        distill(output=str(tmp_path / "killed"), steps=130, **choices)
    assert not (tmp_path / "killed").exists()
    with pytest.raises(UserError, match="--resume goes on"):
        distill(output=str(tmp_path / "killed"), steps=130, **choices)
    with pytest.raises(UserError, match="other options"):
        distill(output=str(tmp_path / "killed"), steps=130, **{**choices, "batch_tokens": 32}, resume=True)
    went_on = distill(output=str(tmp_path / "killed"), steps=130, **choices, resume=True)
    np.testing.assert_allclose(went_on.exits(TEXTS)[2], whole.exits(TEXTS)[2], atol=1e-5)
    assert not (tmp_path / "killed.checkpoints").exists()


def test_minutes_in_place_of_steps(source: str, texts: str, tmp_path: Path) -> None:
    encoder = distill(
        model=source, data=texts, output=str(tmp_path / "m"), layers=1, minutes=0.02, device="cpu", quiet=True
    )
    assert encoder.record["distill"]["cosines"]["1"][1] > encoder.record["distill"]["cosines"]["1"][0]


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"layers": 4}, "expected --layers 1 to 3"),
        ({"layers": 9}, "expected --layers 1 to 3"),
        ({"resume": True}, "nothing to resume"),
        ({"data": []}, "no texts to learn from"),
        ({"learning_rate": 1e30}, "lower --learning-rate"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    source: str, texts: str, tmp_path: Path, choices: dict[str, object], words: str
) -> None:
    given = {"model": source, "data": texts, "output": str(tmp_path / "m"), "device": "cpu", "quiet": True}
    with pytest.raises(UserError, match=words) as caught:
        distill(**{**given, "steps": 30, **choices})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("change", [fit, distill, train])
def test_a_model_with_a_tower_is_not_changed_under_it(
    made: str, texts: str, tmp_path: Path, change: object
) -> None:
    choices = {"model": made, "data": texts, "output": str(tmp_path / "m"), "device": "cpu", "quiet": True}
    with pytest.raises(UserError, match="shallow tower"):
        change(**choices)  # type: ignore[operator]
    assert not (tmp_path / "m").exists()


def test_a_folder_without_its_tower_says_so(made: str, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(made, tmp_path / "half", ignore=shutil.ignore_patterns("shallow"))
    with pytest.raises(UserError, match="lacks the folder shallow"):
        ElasticEncoder(str(tmp_path / "half"), device="cpu")


def test_a_tower_must_fit(source: str) -> None:
    encoder = ElasticEncoder(source, device="cpu")
    with pytest.raises(UserError, match="expected fewer layers"):
        encoder.add_tower(encoder.first_layers(4))


def test_batches_hold_every_text_once_and_one_prompt_each() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 60, 500)
    prompts = ["query: " if i % 3 else "" for i in range(500)]
    data = TowerData([""] * 500, prompts, np.zeros((500, 2), np.float32), lengths)
    batches = data.batches(400, rng)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    for rows in batches:
        assert len({prompts[row] for row in rows}) == 1
        assert len(rows) <= 8 or len(rows) * lengths[rows].max() <= 400


def test_the_full_size_embeds_what_is_reached_and_no_text_comes_back_early(
    source: str, texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[list[str]] = []
    seen: list[str] = []

    def noted(teacher: object, pairs: list[tuple[str, str]], **places: object) -> np.ndarray:
        embedded.append([text for _, text in pairs])
        return embedded_once(teacher, pairs, **places)  # type: ignore[arg-type]

    def step(training: TowerTraining, rows: np.ndarray) -> float:
        seen.extend(training.data.texts[row] for row in rows)
        return take_step(training, rows)

    embedded_once, take_step = distillation.embedded_once, TowerTraining._step
    monkeypatch.setattr(distillation, "embedded_once", noted)
    monkeypatch.setattr(distillation, "_PART", 30)
    monkeypatch.setattr(TowerTraining, "_step", step)
    choices = {"model": source, "data": texts, "layers": 1, "device": "cpu", "quiet": True}
    distill(output=str(tmp_path / "short"), batch_tokens=4096, steps=2, **choices)
    assert [len(part) for part in embedded] == [30, 30]
    assert sorted(seen) == sorted(embedded[0] + embedded[1])
    seen.clear()
    encoder = distill(output=str(tmp_path / "long"), batch_tokens=4096, steps=6, **choices)
    count = len(set(seen))
    assert count > 90
    assert len(set(seen[:count])) == count
    assert sorted(seen[count:]) == sorted(seen[: len(seen) - count])
    assert f"{count} texts" in (tmp_path / "long" / "README.md").read_text()
    assert encoder.tower is not None


def test_the_rate_rises_and_falls() -> None:
    rates = [learning_rate_share(done / 100) for done in range(101)]
    assert rates.index(max(rates)) == 5
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_the_loss_of_the_default_model_falls() -> None:
    encoder = ElasticEncoder("default", device="cpu")
    from matryoshka2d.training.distillation import shallow_copy

    tower = shallow_copy(encoder, 1)
    texts = [f"{a} {b} on the {c}" for a in ("cats", "dogs") for b in ("sit", "run") for c in ("mat", "hill")]
    targets = encoder.encode(texts)
    data = TowerData(texts, [""] * len(texts), targets, np.array(tower.token_counts(texts)))
    near = (tower.exits(texts)[1] * targets).sum(axis=1).mean()
    losses: list[float] = []
    training = TowerTraining(tower, lambda number: data, Schedule(6, None, 5e-4, 256, [384, 32], 0))
    training.run(lambda progress: losses.append(progress.loss))
    assert len(losses) == 6
    assert (tower.exits(texts)[1] * targets).sum(axis=1).mean() > near + 0.05
