"""Graphs that ONNX Runtime opens as they lie, with their tokenizer: neither torch nor the model is read.

There are two kinds: a folder that ``export --format onnx`` wrote, and the graphs that the onnx engine once
wrote into the user's cache for a model's folder. The second kind is found by the contents of that folder, so
a model that has changed in any file is loaded again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matryoshka2d.encoder.default_model import resolve_model
from matryoshka2d.encoder.fingerprints import files_fingerprint
from matryoshka2d.encoder.saved_tokenizer import SavedTexts, SavedTokenizer
from matryoshka2d.errors import UserError
from matryoshka2d.export.signature import PROMPT_LENGTH, export_record, is_onnx_export
from matryoshka2d.files import staged_folder, user_cache
from matryoshka2d.inference.shape import Shape
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.inference.tokens import TextTokenizer

SUFFIXES = {"fp32": "", "int8": "-int8"}
"""Precision → what stands behind the name of a folder of graphs."""

_FORMAT = "starts-1"
_NOTE, _TOKENIZER = "start.json", "tokenizer.json"


@dataclass(frozen=True)
class ReadyGraphs:
    """Graphs, and all that an engine needs beside them.

    Parameters
    ----------
    files
        Size → its graph. A graph of few dims gives those alone.
    precision
        What the graphs compute in.
    texts
        The way in.
    size
        The size that is used when none is asked for.
    sizes
        Those that the engine shows.
    """

    files: Mapping[Size, Path]
    precision: str
    texts: SavedTexts
    size: Size
    sizes: tuple[Size, ...]

    @property
    def shape(self) -> Shape:
        """What the engine offers at most; between, there may be sizes without a graph."""
        depth, width = max(one.layers for one in self.files), max(one.dims for one in self.files)
        return Shape(depth, width, self.size, self.sizes)

    def widest(self) -> dict[int, Size]:
        """Return layers → the widest size that has a graph."""
        return {size.layers: size for size in sorted(self.files)}


def find_graphs(
    model: str,
    precision: str,
    size: str | Size | None,
    pooling: str | None,
    calibration: Sequence[str] | None,
) -> ReadyGraphs | None:
    """Return graphs that can be opened as they lie, or None where the model must be loaded to make them.

    Parameters
    ----------
    model, precision, size, pooling, calibration
        As in `open_engine`.

    Raises
    ------
    UserError
        If the model is an export and lacks what is asked for.
    """
    if is_onnx_export(model):
        if pooling is not None or calibration is not None:
            raise UserError(f"{model} is an export: its pooling and its scales are fixed, leave them out")
        return read_export(Path(model), precision, size)
    chosen = "fp32" if precision == "auto" else precision
    start = Start.of(model, size, pooling) if calibration is None and chosen in SUFFIXES else None
    return None if start is None else start.graphs(chosen)


# --- a folder that was exported --------------------------------------------------------------------


def read_export(folder: Path, precision: str, size: str | Size | None) -> ReadyGraphs:
    """Read a folder that ``export --format onnx`` wrote.

    Parameters
    ----------
    folder
        The folder.
    precision
        ``"auto"``, or what the caller expects it to be.
    size
        The default size, if not the largest.

    Raises
    ------
    UserError
        If it is in another precision, lacks the size, or misses files.
    """
    from tokenizers import Tokenizer

    record = export_record(folder)
    if precision not in ("auto", record["precision"]):
        raise UserError(
            f"{folder} is an export in {record['precision']}: choose the precision auto, or export the model "
            f"in {precision}"
        )
    files = {Size.parse(name): folder / one["file"] for name, one in record["sizes"].items()}
    for file in (*files.values(), folder / _TOKENIZER):
        if not file.is_file():
            raise UserError(f"{folder} is an export without {file.name}: export the model again")
    backend = Tokenizer.from_file(str(folder / _TOKENIZER))
    limit, padding = backend.truncation, backend.padding or {"pad_id": 0}
    backend.no_padding()
    tokenizer = SavedTokenizer(
        backend,
        None if limit is None else int(limit["max_length"]),
        int(padding["pad_id"]),
        backend.get_vocab_size(),
    )
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    texts = SavedTexts(
        tokenizer, prompts["prompts"], prompts["default_prompt_name"], PROMPT_LENGTH in record["inputs"]
    )
    ready = ReadyGraphs(files, record["precision"], texts, max(files), tuple(sorted(files)))
    if size is None:
        return ready
    wanted = Size.parse(size)
    check_graph(ready.widest(), wanted)
    return ReadyGraphs(files, ready.precision, texts, wanted, ready.sizes)


def check_graph(widest: Mapping[int, Size], size: Size) -> None:
    """Raise a `UserError` unless a graph gives a size."""
    if size.layers not in widest or size.dims > widest[size.layers].dims:
        known = ", ".join(str(one) for one in sorted(widest.values()))
        raise UserError(f"the export has no {size}: expected {known}, or fewer dims of one of them")


# --- graphs in the cache ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """The place in the user's cache of what is known of a model's folder.

    Parameters
    ----------
    place
        A folder, which is there once the model was opened.
    """

    place: Path

    @classmethod
    def of(cls, model: str, size: str | Size | None, pooling: str | None) -> Start | None:
        """Return that of a model loaded so; None for a model that is no folder, or cannot be looked over."""
        folder = Path(resolve_model(model))
        try:
            found = files_fingerprint(folder) if folder.is_dir() else None
        except OSError:
            return None
        if found is None:
            return None
        how = "-".join([_FORMAT, found, *(str(part) for part in (size, pooling) if part is not None)])
        return cls(user_cache("starts") / how)

    def graphs(self, precision: str) -> ReadyGraphs | None:
        """Return the graphs of the model, or None where they, or the notes on it, are not there."""
        from tokenizers import Tokenizer

        try:
            note = json.loads((self.place / _NOTE).read_text(encoding="utf-8"))
            folder = user_cache("graphs") / f"{note['graphs']}{SUFFIXES[precision]}"
            files = {Size.parse(name): folder / f"{name}.onnx" for name in note["graph sizes"]}
            if not all(file.is_file() for file in files.values()):
                return None
            backend = Tokenizer.from_file(str(self.place / _TOKENIZER))
            tokenizer = SavedTokenizer(backend, note["limit"], note["padding"], note["vocabulary"])
            texts = SavedTexts(tokenizer, note["prompts"], note["default prompt name"], note["skips prompt"])
            sizes = tuple(map(Size.parse, note["sizes"]))
            return ReadyGraphs(files, precision, texts, Size.parse(note["size"]), sizes)
        except (OSError, ValueError, KeyError, TypeError, UserError):  # never noted, or damaged
            return None

    def note(self, tokenizer: TextTokenizer, shape: Shape, files: Mapping[int, Path], precision: str) -> None:
        """Remember what an engine of this model is made of; a cache that cannot be written costs time only.

        Parameters
        ----------
        tokenizer, shape
            Of the engine.
        files, precision
            layers → graph, and what these compute in.
        """
        texts = tokenizer.saved()
        if texts is None:
            return
        note = {
            "graphs": next(iter(files.values())).parent.name.removesuffix(SUFFIXES[precision]),
            "graph sizes": [file.stem for file in files.values()],
            "limit": texts.tokenizer.limit,
            "padding": texts.tokenizer.padding,
            "vocabulary": texts.tokenizer.vocabulary,
            "prompts": dict(texts.prompts),
            "default prompt name": texts.default_prompt_name,
            "skips prompt": texts.skips_prompt,
            "size": str(shape.size),
            "sizes": [str(size) for size in shape.sizes],
        }
        with contextlib.suppress(OSError, UserError), staged_folder(self.place, overwrite=True) as folder:
            texts.tokenizer.backend.save(str(folder / _TOKENIZER))
            (folder / _NOTE).write_text(json.dumps(note, ensure_ascii=False), encoding="utf-8")
