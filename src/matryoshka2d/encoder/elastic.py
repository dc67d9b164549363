"""The elastic encoder: a SentenceTransformer that can stop after any layer and keep any prefix.

The function at a size n x d is: first n layers → final norm, where the architecture has one → the
model's own pooling and later modules → the head of that exit, if there is one → first d coordinates →
L2-normalize. Where the model has a shallow tower, sizes of its layers are the tower's, a model of that kind
itself; deeper ones are the model's own. Everything else in the package is a use of this file.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import Tensor, nn

from matryoshka2d.encoder import architectures, default_model, loading
from matryoshka2d.encoder.cores import side_by_side
from matryoshka2d.encoder.finite import check_finite, check_weights
from matryoshka2d.encoder.heads import ExitHeads, identity_dense
from matryoshka2d.encoder.hub import hub_arguments
from matryoshka2d.encoder.lengths import even_slices
from matryoshka2d.encoder.saved_model import HEADS, RECORD, SHALLOW
from matryoshka2d.encoder.tokenizer_settings import settle_tokenizer
from matryoshka2d.encoder.tower import ShallowTower
from matryoshka2d.errors import UserError, whole_texts
from matryoshka2d.size import Size, default_sizes

_ROTATION = "rotation"
_ASIDE = (ExitHeads, ShallowTower)
"""Modules that hand the full size on unchanged."""
RunColumns = Callable[["ElasticEncoder", Sequence[dict[str, Any]], Sequence[int]], Mapping[int, Any]]
"""Model, columns of a batch, layers → layer → the vectors of every column."""
# Few enough that padding them to their longest costs little.
_LENGTHS_AT_ONCE = 256


class ElasticEncoder(SentenceTransformer):
    """One model, any depth, any width.

    Parameters
    ----------
    model_name_or_path
        A folder, a hub name or ``"default"``: any sentence-transformers model, or a plain transformers
        checkpoint, of an architecture in `matryoshka2d.encoder.architectures.ARCHITECTURES`.
    size
        Load only this size, as ``"3x128"``: deeper layers are never read from disk, and the encoder
        then gives vectors of that size by default. Leave it out to have every size.
    pooling
        ``"mean"``, ``"cls"`` or ``"last"``: how a plain transformers checkpoint is pooled. Only for
        checkpoints without a pooling of their own.
    **kwargs
        Everything else that `SentenceTransformer` takes: ``device``, ``prompts``, ``model_kwargs`` … but
        ``truncate_dim``: the width is the model's own, whatever its config says, and a size cuts it.

    Raises
    ------
    UserError
        If the model cannot be found, has no weights or such as are not finite, is of an unknown
        architecture, or lacks the size.

    Examples
    --------
    >>> encoder = ElasticEncoder("default", device="cpu")
    >>> encoder.depth, encoder.width
    (6, 384)
    >>> encoder.encode(["a cat", "a dog"], size="3x128").shape
    (2, 128)
    """

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        size: str | Size | None = None,
        pooling: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._size: Size | None = None
        wanted = None if size is None else Size.parse(size)
        if kwargs.get("truncate_dim") is not None:
            raise UserError("truncate_dim cuts no exit: name a size instead, as size='6x128'")
        if model_name_or_path is not None:
            name = loading.check_model(default_model.resolve_model(str(model_name_or_path)))
            kwargs = hub_arguments(name, kwargs)
            if wanted is not None:
                name = _answering(name, wanted, kwargs)
            with loading.in_one_line(name), loading.without_load_report(shallow=wanted is not None):
                super().__init__(**loading.init_arguments(name, wanted, pooling, kwargs))
        else:
            super().__init__(**kwargs)
        # Its config may cut vectors; here a size does.
        self.truncate_dim = None
        if not isinstance(self[0], Transformer):
            raise architectures.UnknownArchitectureError(
                f"the model starts with {type(self[0]).__name__}, which has no layers"
            )
        architectures.architecture_of(self.base.config)
        settle_tokenizer(self[0])
        self.record: dict[str, Any] = {}
        if model_name_or_path is not None:
            self._load_elastic_part(name, kwargs)
            check_weights(self, f"model '{name}'")
        if wanted is not None:
            self._size = wanted.check(self.depth, self.width)

    def _load_elastic_part(self, name: str, kwargs: dict[str, Any]) -> None:
        if self.rotated:
            cast(nn.Module, self._modules[_ROTATION]).requires_grad_(False)
        record = loading.elastic_file(name, RECORD, kwargs)
        if record is None:
            return
        self.record = json.loads(record.read_text(encoding="utf-8"))
        if self.record.get("shallow"):
            self._load_shallow(name, kwargs)
        folder = loading.elastic_folder(name, HEADS, kwargs) if self.record.get("heads") else None
        if folder is not None:
            heads = ExitHeads.load(folder)
            heads.keep(self.depth)
            self._attach(heads)

    def _load_shallow(self, name: str, kwargs: dict[str, Any]) -> None:
        folder = loading.elastic_folder(name, SHALLOW, kwargs)
        if folder is None:
            raise UserError(
                f"{name} lacks the folder {SHALLOW}, which answers its small sizes: copy it whole"
            )
        passed = {key: kwargs[key] for key in ("device", "model_kwargs") if key in kwargs}
        self.add_tower(ElasticEncoder(folder, **passed))

    @property
    def base(self) -> nn.Module:
        """The transformers base model, with every loaded layer."""
        model: nn.Module = self[0].model
        return model

    @property
    def depth(self) -> int:
        """Number of loaded layers."""
        return len(architectures.layers_of(self.base))

    @property
    def width(self) -> int:
        """Number of dims of the full vector."""
        dims = super().get_embedding_dimension()
        if dims is None:
            raise UserError("the model does not say how wide its vectors are: expected a pooling module")
        return int(dims)

    @property
    def hidden(self) -> int:
        """Number of dims of a token state, which later modules may turn into another width."""
        return int(self[0].get_embedding_dimension())

    @property
    def size(self) -> Size:
        """The size that is used when none is asked for: the full size, or the one that was loaded."""
        return self._size or Size(self.depth, self.width)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes that are shown by default: those that were trained, or every depth x usual width."""
        trained = [Size.parse(text) for text in self.record.get("sizes", [])]
        return tuple(s for s in trained if s.layers <= self.depth) or default_sizes(self.depth, self.width)

    @property
    def heads(self) -> ExitHeads | None:
        """The heads of the inner exits, if the model has any."""
        heads = self._modules.get(HEADS)
        return heads if isinstance(heads, ExitHeads) else None

    def add_heads(self) -> ExitHeads:
        """Give every inner exit a linear head, from the identity, so that nothing changes until trained."""
        if self.heads is None:
            self._attach(ExitHeads(range(1, self.depth), self.width))
        assert self.heads is not None
        return self.heads

    @property
    def tower(self) -> ElasticEncoder | None:
        """The shallow tower: the model of few layers that answers the sizes of those, if there is one."""
        tower = self._modules.get(SHALLOW)
        return cast(ElasticEncoder, tower.encoder) if isinstance(tower, ShallowTower) else None

    def add_tower(self, tower: ElasticEncoder) -> None:
        """Let a model of fewer layers answer the sizes of those; deeper sizes stay as they are.

        Parameters
        ----------
        tower
            An elastic model of fewer layers that gives vectors of the same width, in the same space.

        Raises
        ------
        UserError
            If it has not fewer layers, or another width.

        Examples
        --------
        >>> from matryoshka2d.encoder.default_model import default_model_path
        >>> encoder = ElasticEncoder(default_model_path(), device="cpu")
        >>> encoder.add_tower(encoder.first_layers(2))
        >>> encoder.tower.depth, encoder.depth
        (2, 6)
        """
        if tower.depth >= self.depth or tower.width != self.width:
            raise UserError(
                f"a shallow tower of {tower.depth} layers and {tower.width} dims for a model of {self.depth} "
                f"and {self.width}: expected fewer layers, and the same dims"
            )
        tower.prompts, tower.default_prompt_name = self.prompts, self.default_prompt_name
        self.add_module(SHALLOW, ShallowTower(tower.to(device=self.device, dtype=self.dtype)))

    def first_layers(self, layers: int) -> ElasticEncoder:
        """Return an independent elastic model of the first layers, in the same space, without heads.

        Parameters
        ----------
        layers
            How many, fewer than there are or all.
        """
        wanted = self.check(Size(layers, self.width))
        transformer = copy.deepcopy(without_model(self[0]))
        transformer.model = architectures.cut(self.base, wanted.layers)
        later = copy.deepcopy(self._later_modules())
        normalize = [Normalize()] if self.ends_in_normalize else []
        return ElasticEncoder(
            modules=[transformer, *later, *normalize],
            device=str(self.device),
            prompts=dict(self.prompts),
            default_prompt_name=self.default_prompt_name,
            similarity_fn_name=self._similarity_fn_name,
        )

    def answering(self, layers: int) -> ElasticEncoder:
        """Return the model that answers sizes of so many layers: the shallow tower, or this one itself."""
        tower = self.tower
        return tower if tower is not None and 1 <= layers <= tower.depth else self

    def _attach(self, heads: ExitHeads) -> None:
        self.add_module(HEADS, heads.to(device=self.device, dtype=self.dtype))

    @property
    def rotated(self) -> bool:
        """Whether the model was rotated by `rotate`."""
        return _ROTATION in self._modules

    @torch.no_grad()
    def rotate(self, rotation: np.ndarray | Tensor) -> None:
        """Rotate every exit: no cosine changes at full width, but prefixes change.

        The rotation is kept as a stock Dense module before the normalization, so that stock
        sentence-transformers applies it too, and the heads are rotated with it. Vectors made before do not
        go with those made after. Further training leaves it as it is. A model in half precision becomes one
        in float32, because rotated weights rounded to half would change every cosine.

        Parameters
        ----------
        rotation
            Float [width, width], orthogonal: a row vector ``v`` becomes ``v @ rotation``.

        Raises
        ------
        UserError
            If the matrix is of another shape, or no rotation.

        Examples
        --------
        >>> from matryoshka2d.encoder.default_model import default_model_path
        >>> encoder = ElasticEncoder(default_model_path(), device="cpu")
        >>> before = encoder.encode("a cat", size="3x384")
        >>> encoder.rotate(np.eye(384)[::-1].copy())
        >>> bool(np.abs(encoder.encode("a cat", size="3x384") - before[::-1]).max() < 1e-5)
        True
        """
        matrix = torch.as_tensor(rotation, dtype=torch.float64).cpu()
        check_rotation(matrix, self.width)
        if self.dtype != torch.float32:
            self.float()
        if not self.rotated:
            self._insert_rotation()
        rotated = cast(Dense, self._modules[_ROTATION]).linear.weight
        rotated.copy_(matrix.T @ rotated.double().cpu())
        if self.heads is not None:
            self.heads.rotate(matrix)
        if self.tower is not None:
            self.tower.rotate(matrix)

    def _insert_rotation(self) -> None:
        """Put the identity, as a frozen Dense, before a Normalize at the end and before the heads."""
        dense = identity_dense(self.width).requires_grad_(False).to(device=self.device, dtype=self.dtype)
        own, last = list(self._modules.items()), self._later_modules()[-1]
        self._modules.clear()
        for name, module in own:
            self.add_module(name, module)
            if module is last:
                self.add_module(_ROTATION, dense)

    def check(self, size: str | Size) -> Size:
        """Return the size, read from text if need be, or raise a `UserError` if this model lacks it."""
        return Size.parse(size).check(self.depth, self.width)

    def get_embedding_dimension(self) -> int:
        """Return the number of dims that `encode` gives when no size is asked for."""
        return self._size.dims if self._size else self.width

    # --- one size -------------------------------------------------------------------------------

    def get_model_kwargs(self) -> list[str]:
        """Return the extra arguments that `encode` takes: those of the modules, and ``size``."""
        return [*super().get_model_kwargs(), "size"]

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Tokenize; the size has no part in it."""
        kwargs.pop("size", None)
        with whole_texts(inputs):
            features: dict[str, Any] = super().preprocess(inputs, prompt=prompt, **kwargs)
        return features

    def forward(
        self,
        input: dict[str, Any] | Sequence[dict[str, Any]],
        size: str | Size | None = None,
        exits: Sequence[int] | None = None,
        run: RunColumns | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Run the model at a size; without one, exactly as a plain SentenceTransformer would.

        Parameters
        ----------
        input
            What `preprocess` gives: tensors [batch, tokens]. With `run`, all text columns of a training
            batch: a list of such features.
        size
            The size to run at; only its layers are run. `encode`, `encode_query` and
            `encode_document` take the same argument and hand it on.
        exits
            Layers whose `exit_vectors` are wanted instead. Losses ask here, through the call that
            autocast and data-parallel wrappers see: once a step, with all columns.
        run
            How several columns are run: called with this model, the columns and the layers.
        **kwargs
            Handed on to the modules, as `SentenceTransformer.forward` does.

        Returns
        -------
        dict
            The features, with ``sentence_embedding``: float [batch, dims], of unit length if a size was
            asked for here or when loading; or ``exit_vectors`` alone, if those were asked for.
        """
        if not isinstance(input, Mapping):
            if run is None:
                raise TypeError("several columns need `run`, which says how they are run")
            return {"exit_vectors": run(self, input, exits or ())}
        if exits is not None:
            return {"exit_vectors": self.exit_vectors(input, exits)}
        wanted = self._size if size is None else self.check(size)
        if wanted is None:
            features: dict[str, Any] = super().forward(input, **kwargs)
            return features
        vectors = self.exit_vectors(input, [wanted.layers])[wanted.layers]
        return {**input, "sentence_embedding": cut(vectors, wanted.dims)}

    # --- every exit in one pass ------------------------------------------------------------------

    def exit_vectors(self, features: dict[str, Any], layers: Sequence[int]) -> dict[int, Tensor]:
        """Return the full-width vectors of several exits from one pass, before cut and normalization.

        Differentiable: this is what training, the grid and distillation read. A Normalize module at the
        end of the model is left out, because cutting comes before normalizing.

        Parameters
        ----------
        features
            What `preprocess` gives: tensors [batch, tokens].
        layers
            The exits to read; only layers up to the deepest are run. 0 is the embedding output.

        Returns
        -------
        dict
            layer → float [batch, width], in ascending order of layers.
        """
        own = [n for n in layers if self.answering(n) is self]
        vectors = {}
        if self.tower is not None and len(own) < len(layers):
            vectors = self.tower.exit_vectors(features, [n for n in layers if n not in own])
        if own:
            states = self.token_states(features, own)
            vectors.update({n: self.pooled(features, state, n) for n, state in states.items()})
        return dict(sorted(vectors.items()))

    def token_states(self, features: dict[str, Any], layers: Sequence[int]) -> dict[int, Tensor]:
        """Return the state of every token at several exits of this model's own layers, final norm applied.

        Parameters
        ----------
        features
            What `preprocess` gives: tensors [batch, tokens].
        layers
            The exits to read; only layers up to the deepest are run. 0 is the embedding output.

        Returns
        -------
        dict
            layer → float [batch, tokens, hidden], in ascending order of layers.
        """
        deepest = max(layers)
        noted: list[Tensor] = []
        own = list(architectures.layers_of(self.base))
        # One layer runs even for exit 0, whose state is the input of that layer.
        taps = [architectures.Tap(layer, noted) for layer in own[: max(deepest, 1)]]
        last = self.through(taps, features)
        norm = architectures.final_norm_of(self.base)
        inner = noted if norm is None else [norm(state) for state in noted]
        states = [*inner, last]
        return {n: states[n] for n in sorted(set(layers))}

    def through(self, layers: Sequence[nn.Module], features: dict[str, Any]) -> Tensor:
        """Return the state of every token after the given layers in place of the model's own.

        Embeddings and final norm are the model's. Nothing is replaced in it: see `architectures.view`.

        Parameters
        ----------
        layers
            Layers of the model's architecture, or what stands around them.
        features
            What `preprocess` gives: tensors [batch, tokens].

        Returns
        -------
        Tensor
            Float [batch, tokens, hidden].
        """
        model = architectures.view(self.base, layers)
        if "words" in features:
            model = architectures.with_wrapped(model, features["words"])
        own = {name: value for name, value in features.items() if name != "words"}
        states: Tensor = _with_model(self[0], model)(own)["token_embeddings"]
        return states

    def pooled(self, features: dict[str, Any], states: Tensor, layers: int) -> Tensor:
        """Return the full-width vectors of an exit from its token states: later modules, then its head.

        Parameters
        ----------
        features
            What `preprocess` gives: tensors [batch, tokens].
        states
            What `token_states` gives for that exit.
        layers
            The exit, whose head is applied if it has one.
        """
        features = {**features, "token_embeddings": states}
        for module in self._later_modules():
            features = module(features)
        vectors: Tensor = features["sentence_embedding"]
        return vectors if self.heads is None else self.heads.apply_to(vectors, layers)

    def _later_modules(self) -> list[nn.Module]:
        """Return the modules after the Transformer, without those aside and a Normalize at the end."""
        modules = [module for module in list(self)[1:] if not isinstance(module, _ASIDE)]
        while modules and isinstance(modules[-1], Normalize):
            modules.pop()
        return modules

    @property
    def ends_in_normalize(self) -> bool:
        """Whether the model itself returns vectors of unit length."""
        modules = [module for module in self if not isinstance(module, _ASIDE)]
        return isinstance(modules[-1], Normalize)

    def exits(
        self,
        texts: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 64,
        show_progress_bar: bool = False,
    ) -> dict[int, np.ndarray]:
        """Return the vectors of every exit from one pass over the texts.

        Parameters
        ----------
        texts
            The texts to embed.
        layers
            The exits to return; all of them by default.
        prompt_name, prompt
            As in `encode`.
        batch_size
            Texts a batch; batches are filled in order of length.
        show_progress_bar
            Whether to draw progress.

        Returns
        -------
        dict
            layer → float32 [len(texts), width], of unit length, in the order of the texts. Cut to d and
            normalized again, a row equals ``encode(text, size=(layer, d))``.

        Examples
        --------
        >>> from matryoshka2d.encoder.default_model import default_model_path
        >>> exits = ElasticEncoder(default_model_path(), device="cpu").exits(["a cat"])
        >>> sorted(exits), exits[3].shape
        ([1, 2, 3, 4, 5, 6], (1, 384))
        """
        wanted = sorted({self.check(Size(n, 1)).layers for n in layers or range(1, self.depth + 1)})
        results = {n: np.empty((len(texts), self.width), dtype=np.float32) for n in wanted}
        self.eval()
        prompt = self._resolve_prompt(prompt, prompt_name)
        batches = _batches(texts, self.token_counts(texts), batch_size, show_progress_bar)
        prepared = ((rows, self.preprocess(batch, prompt=prompt)) for rows, batch in batches)

        @torch.inference_mode()
        def embed(item: tuple[np.ndarray, dict[str, Any]]) -> None:
            rows, features = item
            features = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in features.items()}
            for n, vectors in self.exit_vectors(features, wanted).items():
                results[n][rows] = cut(vectors, self.width).float().cpu().numpy()

        alone = self.device.type != "cpu" or len(texts) <= batch_size
        for _ in map(embed, prepared) if alone else side_by_side(embed, prepared):
            pass
        for found in results.values():
            check_finite(found, texts)
        return results

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text: batches of one length are not padded, those of one width are."""
        # A fast tokenizer keeps the settings of its last call, for all threads. So it is called as
        # `preprocess` calls it: without padding here, a batch of another thread would come out unpadded.
        as_in_batches: dict[str, Any] = {
            "padding": True,
            "truncation": "longest_first",
            "max_length": self.max_seq_length,
        }
        lengths: list[int] = []
        for start in range(0, len(texts), _LENGTHS_AT_ONCE):
            some = list(texts[start : start + _LENGTHS_AT_ONCE])
            with whole_texts(some):
                encoded = self.tokenizer(some, **as_in_batches)
            lengths += [sum(mask) for mask in encoded["attention_mask"]]
        return lengths

    # --- leaving the package ---------------------------------------------------------------------

    def truncate(self, size: str | Size) -> SentenceTransformer:
        """Return a plain SentenceTransformer that computes one size and holds nothing else.

        It is independent of this encoder, and what it saves loads in stock sentence-transformers
        without this package. The cut stands before the normalization, as a bias-free Dense that holds
        the slice (and the rotation and the head of that exit, if there are any).

        Parameters
        ----------
        size
            The size to cut out, as ``"3x128"``.

        Raises
        ------
        UserError
            If the model lacks that size, or holds weights that are not finite.

        Examples
        --------
        >>> from matryoshka2d.encoder.default_model import default_model_path
        >>> small = ElasticEncoder(default_model_path(), device="cpu").truncate("3x128")
        >>> small.encode("a cat").shape
        (128,)
        """
        wanted = self.check(size)
        check_weights(self, "the model")
        if self.answering(wanted.layers) is not self:
            small = self.answering(wanted.layers).truncate(wanted)
            small.max_seq_length = self.max_seq_length
            return small
        transformer = copy.deepcopy(without_model(self[0]))
        transformer.model = architectures.cut(self.base, wanted.layers)
        dims = [s.dims for s in self.sizes if s.dims <= wanted.dims]
        # Servers take a request for fewer dims only where these stand.
        transformer.model.config.is_matryoshka = True
        transformer.model.config.matryoshka_dimensions = sorted({*dims, wanted.dims})
        rotation = self._modules.get(_ROTATION)
        later = [copy.deepcopy(module) for module in self._later_modules() if module is not rotation]
        slicing = self._slice(wanted)
        plain = SentenceTransformer(
            modules=[transformer, *later, *([slicing] if slicing else []), Normalize()],
            device=str(self.device),
            prompts=dict(self.prompts),
            default_prompt_name=self.default_prompt_name,
            similarity_fn_name=self._similarity_fn_name,
        )
        return plain.eval()

    def _slice(self, size: Size) -> Dense | None:
        """Return the Dense [width → dims] that holds rotation, head and cut, or None if none is needed."""
        head = self.heads.at(size.layers) if self.heads is not None else None
        if head is None and size.dims == self.width and not self.rotated:
            return None
        weight = torch.eye(self.width) if head is None else head.linear.weight.detach().cpu()
        if self.rotated:
            weight = weight @ cast(Dense, self._modules[_ROTATION]).linear.weight.detach().cpu()
        rows = weight[: size.dims].clone().to(self.dtype)
        return Dense(self.width, size.dims, bias=False, activation_function=nn.Identity(), init_weight=rows)

    def save(
        self,
        path: str,
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: list[str] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """Save the model; the folder also loads in stock sentence-transformers, as its full size.

        Raises
        ------
        UserError
            If the encoder holds one size alone, or weights that are not finite.
        """
        if self._size is not None:
            raise UserError(
                f"this encoder holds only size {self._size}: save it with truncate('{self._size}').save(...)"
            )
        check_weights(self, "the model that was made")
        super().save(path, model_name, create_model_card, train_datasets, safe_serialization)
        folder = Path(path)
        _unlist_aside(folder)
        record = {**self.record, "format": 1, "heads": self.heads.layers() if self.heads else []}
        record.pop("shallow", None)
        if self.tower is not None:
            record["shallow"] = self.tower.depth
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def cut(vectors: Tensor, dims: int) -> Tensor:
    """Return the first `dims` coordinates of each row, normalized after the cut.

    Parameters
    ----------
    vectors
        Float [..., width].
    dims
        How many coordinates to keep.

    Examples
    --------
    >>> cut(torch.tensor([[3.0, 4.0, 12.0]]), 2)
    tensor([[0.6000, 0.8000]])
    """
    return nn.functional.normalize(vectors[..., :dims], dim=-1)


def check_rotation(matrix: Tensor, width: int) -> None:
    """Raise a `UserError` unless a matrix turns vectors of a width and leaves their lengths alone."""
    if not matrix.isfinite().all():
        raise UserError("the matrix holds numbers that are not finite: expected a rotation")
    if matrix.shape != (width, width):
        raise UserError(
            f"a rotation of shape {list(matrix.shape)} for vectors of {width} dims: expected "
            f"[{width}, {width}]"
        )
    if not torch.allclose(matrix.T @ matrix, torch.eye(width, dtype=matrix.dtype), atol=1e-3):
        raise UserError("the matrix is no rotation: expected one whose transpose is its inverse")


def _with_model(transformer: Transformer, model: nn.Module) -> Transformer:
    """Return the same Transformer module around another base model; nothing else is copied."""
    clone = copy.copy(transformer)
    clone._modules = {**transformer._modules, "model": model}
    return clone


def _batches(
    texts: Sequence[str], lengths: Sequence[int], batch_size: int, show_progress_bar: bool
) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Yield (positions, texts) batch by batch, longest texts first so that memory peaks at once."""
    from tqdm.auto import tqdm

    order = np.argsort(lengths, kind="stable")
    slices = list(even_slices(np.asarray(lengths)[order], batch_size))
    for some in tqdm(slices, desc="Exits", disable=not show_progress_bar):
        yield order[some], [texts[row] for row in order[some]]


def without_model(transformer: Transformer) -> Transformer:
    """Return the same Transformer module, for its tokenizer, without the weights."""
    nothing = nn.Identity()
    nothing.config = transformer.model.config
    return _with_model(transformer, nothing)


def _answering(name: str, size: Size, kwargs: dict[str, Any]) -> str:
    """Return the model that answers a size: the folder of the shallow tower, or the model itself."""
    record = loading.elastic_file(name, RECORD, kwargs)
    layers = 0 if record is None else json.loads(record.read_text(encoding="utf-8")).get("shallow", 0)
    folder = loading.elastic_folder(name, SHALLOW, kwargs) if size.layers <= layers else None
    return name if folder is None else str(folder)


def _unlist_aside(folder: Path) -> None:
    """Take heads and shallow tower out of modules.json, so that stock loaders see the full size alone."""
    listing = folder / "modules.json"
    modules: Iterable[dict[str, Any]] = json.loads(listing.read_text(encoding="utf-8"))
    aside = {module["name"]: module for module in modules if module["name"] in (HEADS, SHALLOW)}
    kept = [module for module in modules if module["name"] not in aside]
    for name in (HEADS, SHALLOW):
        target = folder / name
        if target.exists():
            shutil.rmtree(target)
        if name in aside:
            (folder / aside[name]["path"]).rename(target)
    if aside:
        listing.write_text(json.dumps(kept, indent=2), encoding="utf-8")
