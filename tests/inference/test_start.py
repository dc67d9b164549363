"""A first vector without the libraries that made the model: the same bits as with them, and none imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertTokenizer, RobertaTokenizer, XLMRobertaTokenizer

from matryoshka2d.encoder.architectures import ARCHITECTURES
from matryoshka2d.encoder.default_model import default_model_path
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.saved_model import read_model
from matryoshka2d.errors import UserError
from matryoshka2d.inference import open_engine
from matryoshka2d.inference.request_batching import BatchingEngine
from matryoshka2d.inference.tokens import TextTokenizer
from tests import tiny

PACKED = [name for name, one in ARCHITECTURES.items() if one.post_norm is not None]
HEAVY = ("transformers", "sentence_transformers", "datasets", "scipy", "matplotlib", "pyarrow", "pandas")
TEXTS = [*tiny.TEXTS, "", " ", "A CAT in Überlingen, at 3 o'clock!", "cat " * 200, "日本語 cat", "a\tb\ncé"]


def engines(folder: str, size: str | None = None) -> tuple[BatchingEngine, BatchingEngine]:
    """Return the engine of a folder that is read as it lies, and that of the model loaded in full."""
    assert read_model(folder) is not None
    opened = (
        open_engine(folder, "torch", "fp32", "cpu", size=size),
        open_engine(ElasticEncoder(folder, device="cpu", size=size), "torch", "fp32"),
    )
    assert all(isinstance(one, BatchingEngine) for one in opened)
    return opened  # type: ignore[return-value]


def assert_same(folder: str, size: str | None = None) -> None:
    """See that both give the same bits, for every size and prompt, and say the same of the model."""
    quick, full = engines(folder, size)
    assert (quick.shape, quick.precision, quick.device) == (full.shape, full.precision, full.device)
    for name in ("prompts", "default_prompt_name", "limit", "fill", "vocabulary"):
        assert getattr(quick.tokenizer, name) == getattr(full.tokenizer, name), name
    assert quick.memory() == full.memory()
    for one in (quick.size, *quick.sizes[:: max(1, len(quick.sizes) // 4)]):
        for prompt in (None, *quick.tokenizer.prompts):
            mine, its = (engine.embed(TEXTS, one, prompt_name=prompt) for engine in (quick, full))
            assert np.array_equal(mine, its)


@pytest.mark.parametrize("model_type", PACKED)
@pytest.mark.parametrize("dense", [False, True])
def test_every_packed_architecture_gives_the_same_bits(tmp_path: Path, model_type: str, dense: bool) -> None:
    assert_same(tiny.sentence_model(tmp_path, model_type, dense=dense, prompts={"query": "query : "}))


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_every_usual_pooling_gives_the_same_bits(tmp_path: Path, pooling: str) -> None:
    assert_same(tiny.sentence_model(tmp_path, pooling=pooling, normalize=False))


def test_the_default_model_gives_the_same_bits() -> None:
    assert_same(default_model_path())


def test_heads_and_rotation_give_the_same_bits(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")
    for head in encoder.add_heads().dense.values():
        torch.nn.init.normal_(head.linear.weight)  # type: ignore[union-attr, arg-type]
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(tiny.WIDTH, tiny.WIDTH)))
    encoder.rotate(turned)
    encoder.record["sizes"] = ["1x8", "2x16", "4x32"]
    encoder.save(str(tmp_path / "turned"))
    assert_same(str(tmp_path / "turned"))
    assert_same(str(tmp_path / "turned"), "2x16")


def test_a_shallow_size_reads_only_its_layers(tmp_path: Path) -> None:
    folder = tiny.sentence_model(tmp_path)
    change_weights(folder, lambda name, weight: weight * np.nan if "layer.3." in name else weight)
    assert np.isfinite(open_engine(folder, "torch", device="cpu", size="3x8").embed(["a cat"])).all()
    with pytest.raises(UserError, match=r"weights that are not finite: 0\.model\.encoder\.layer\.3\."):
        open_engine(folder, "torch", device="cpu")


@pytest.mark.parametrize(("size", "words"), [("5x8", "too deep"), ("2x64", "too wide")])
def test_a_size_that_is_not_there_is_said_as_before(tmp_path: Path, size: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_engine(tiny.sentence_model(tmp_path), device="cpu", size=size)


# --- tokenizers ------------------------------------------------------------------------------------


def word_pieces(**options: Any) -> BertTokenizer:
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdeABCDEéü日本!,.",
        "##a",
        "##b",
        "##é",
        "cat",
    ]
    return BertTokenizer({piece: i for i, piece in enumerate(pieces)}, **options)


def byte_pairs(**options: Any) -> RobertaTokenizer:
    letters = sorted(models_of_bytes())
    named = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {piece: i for i, piece in enumerate([*named, *letters, "ca", "cat"])}
    return RobertaTokenizer(vocabulary, [("c", "a"), ("ca", "t")], **options)


def models_of_bytes() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel.alphabet()


def unigrams(**options: Any) -> XLMRobertaTokenizer:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁cat", "a", "b", "c", "é", "ü", "日", "<mask>"]
    return XLMRobertaTokenizer([(piece, -float(i)) for i, piece in enumerate(pieces)], **options)


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "word pieces": word_pieces,
    "cased": lambda: word_pieces(do_lower_case=False),
    "accents kept": lambda: word_pieces(strip_accents=False),
    "no spaces in Chinese": lambda: word_pieces(tokenize_chinese_chars=False),
    "cut on the left": lambda: word_pieces(truncation_side="left"),
    "one more token": lambda: word_pieces(extra_special_tokens=["<more>"]),
    "byte pairs": byte_pairs,
    "byte pairs with a space": lambda: byte_pairs(add_prefix_space=True),
    "unigrams": unigrams,
    "unigrams without a space": lambda: unigrams(add_prefix_space=False),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TextTokenizer, Any]:
    """Return the tokenizer of a model that is read as it lies, and what transformers makes of it."""
    tokenizer = TOKENIZERS[request.param]()
    tokenizer.model_max_length = 12
    base = tiny.checkpoint(tmp_path_factory.mktemp("base"), vocab_size=len(tokenizer) + 1)
    tokenizer.save_pretrained(base)
    model = SentenceTransformer(modules=[Transformer(base), Pooling(tiny.WIDTH)], device="cpu")
    folder = str(tmp_path_factory.mktemp("model"))
    model.save(folder, create_model_card=False)
    saved = read_model(folder)
    assert saved is not None
    return TextTokenizer(saved.texts), AutoTokenizer.from_pretrained(folder)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.sampled_from("abc éüÜ日本CAT!\n\t<>[]SEPmask")), max_size=12))
def test_ids_are_those_of_transformers(tokenizers: tuple[TextTokenizer, Any], texts: list[str]) -> None:
    mine, its = tokenizers
    texts = [*texts, "cat " * 20, "<mask> [MASK] cat", "e\u0301"]
    found = mine(texts)
    ids = np.split(found.ids, np.cumsum(found.lengths)[:-1])
    assert [one.tolist() for one in ids] == its(texts, truncation=True)["input_ids"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(), max_size=12))
def test_ids_of_the_default_model_are_those_of_the_full_load(texts: list[str]) -> None:
    quick, full = (TextTokenizer(one) for one in (saved_texts(), real()))
    assert np.array_equal(quick(texts).ids, full(texts).ids)


_once: dict[str, Any] = {}


def saved_texts() -> Any:
    saved = _once.get("saved") or _once.setdefault("saved", read_model(default_model_path()))
    return saved.texts


def real() -> ElasticEncoder:
    if "real" not in _once:
        _once["real"] = ElasticEncoder(default_model_path(), device="cpu")
    encoder: ElasticEncoder = _once["real"]
    return encoder


# --- what is unusual -------------------------------------------------------------------------------


def change_json(folder: str, file: str, **entries: Any) -> None:
    path = Path(folder, file)
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **entries}))


def change_weights(folder: str, change: Callable[[str, torch.Tensor], torch.Tensor | None]) -> None:
    path = Path(folder, "model.safetensors")
    changed = {name: change(name, weight) for name, weight in load_file(path).items()}
    kept = {name: weight.contiguous() for name, weight in changed.items() if weight is not None}
    save_file(kept, path, metadata={"format": "pt"})


def change_tokenizer(folder: str, change: Callable[[Tokenizer], None]) -> None:
    path = Path(folder, "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(path))
    change(tokenizer)
    tokenizer.save(str(path))


UNUSUAL: dict[str, Callable[[str], object]] = {
    "half weights": lambda folder: change_weights(folder, lambda _, weight: weight.half()),
    "a config in half": lambda folder: change_json(folder, "config.json", dtype="bfloat16"),
    "a weight that is missing": lambda folder: change_weights(
        folder, lambda name, weight: None if "layer.2.output.dense.bias" in name else weight
    ),
    "another activation": lambda folder: change_json(folder, "config.json", hidden_act="relu"),
    "lower case": lambda folder: change_json(folder, "sentence_bert_config.json", do_lower_case=True),
    "another class": lambda folder: change_json(
        folder, "tokenizer_config.json", tokenizer_class="BertTokenizer"
    ),
    "requirements": lambda folder: change_json(
        folder, "config_sentence_transformers.json", requirements={"torch": ">=2"}
    ),
    "two poolings": lambda folder: change_json(folder, "1_Pooling/config.json", pooling_mode=["mean", "cls"]),
    "a prompt left out": lambda folder: change_json(folder, "1_Pooling/config.json", include_prompt=False),
    "two tokens added": lambda folder: change_json(
        folder, "tokenizer_config.json", extra_special_tokens=["<a>"]
    ),
}


@pytest.mark.parametrize("change", UNUSUAL)
def test_what_is_unusual_is_loaded_in_full(tmp_path: Path, change: str) -> None:
    folder = tiny.sentence_model(tmp_path)
    assert read_model(folder) is not None
    UNUSUAL[change](folder)
    assert read_model(folder) is None


@pytest.mark.parametrize("model_type", sorted(set(ARCHITECTURES) - set(PACKED)))
def test_other_architectures_are_loaded_in_full(tmp_path: Path, model_type: str) -> None:
    assert read_model(tiny.sentence_model(tmp_path, model_type)) is None


# --- imports ---------------------------------------------------------------------------------------


def imported_by(code: str) -> set[str]:
    """Return which heavy libraries a fresh process has imported after some code."""
    code += f"\nimport sys\nprint(*[name for name in {(*HEAVY, 'torch')} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_a_first_vector_imports_torch_alone() -> None:
    code = """
from matryoshka2d import open_engine
open_engine("default", "torch", device="cpu").embed(["a cat"])
"""
    assert imported_by(code) == {"torch"}


def test_a_file_is_encoded_with_torch_alone(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a cat\na dog\n")
    run = f"""
from matryoshka2d.cli.app import app
app(["encode", "default", {str(texts)!r}, {str(tmp_path / "vectors.npy")!r}], standalone_mode=False)
"""
    assert imported_by(run) == {"torch"}
    assert np.load(tmp_path / "vectors.npy").shape == (2, 384)


@pytest.mark.parametrize(
    "module", ["search.index", "search.faiss_store", "serving.catalog", "inference.encoding"]
)
def test_searching_and_serving_import_torch_at_most(module: str) -> None:
    assert imported_by(f"import matryoshka2d.{module}") <= {"torch"}
