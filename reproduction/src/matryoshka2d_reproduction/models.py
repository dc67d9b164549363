"""The models of a plan: each is made once, by the recipe of its method's kind, and kept under a key.

The recipes: training, fitted heads, a rotated space, a separate model of one size, sentence-transformers' own
Matryoshka2dLoss, averaged weights; and pruned backbones.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses
from transformers import PrinterCallback, set_seed

from matryoshka2d import ElasticEncoder, Size, TrainingOptions, UserError, fit, train
from matryoshka2d.data import GroupDroppingCollator, read_mixture
from matryoshka2d.encoder import check_model, layers_of, resolve_model, resolve_precision
from matryoshka2d.files import staged_file, staged_folder
from matryoshka2d.training import (
    FullBatchSampler,
    Search,
    last_complete_checkpoint,
    max_length_of,
    preset_of,
    rotate_by,
    run_folder_of,
    seconds_before,
    set_dropout,
)
from matryoshka2d_reproduction import machine
from matryoshka2d_reproduction.keys import key_of, key_of_file, key_of_model
from matryoshka2d_reproduction.plan import Backbone, Data, Plan
from matryoshka2d_reproduction.runs import (
    NO_DATA,
    Chosen,
    Run,
    effective_options,
    is_trained,
    options_of,
    with_choice,
)


@dataclass(frozen=True)
class StoredModel:
    """A model that a run is measured with.

    Parameters
    ----------
    path
        Where it loads from.
    pooling
        How it is pooled, where the model itself does not say.
    cost
        What its training took: ``train_seconds``, ``peak_memory_mb``, ``machine``; empty if nothing was
        trained.
    """

    path: str
    pooling: str | None = None
    cost: Mapping[str, Any] = field(default_factory=dict)


class ModelStore:
    """The models of a plan, made when they are first asked for; each has a key of what it was made from.

    Parameters
    ----------
    plan
        The plan.
    data_folder
        Where its data are.
    runs
        Where models and cosines are kept; not part of the results.
    chosen
        What was chosen on dev, for the methods that others need.
    """

    def __init__(
        self, plan: Plan, data_folder: str | Path, runs: str | Path, chosen: Chosen | None = None
    ) -> None:
        self.plan = plan
        self.chosen = dict(chosen or {})
        self.data_folder = Path(data_folder)
        self.cache = Path(runs)

    # --- keys ----------------------------------------------------------------------------------------

    def key(self, run: Run) -> str:
        """Return the key of a run's model: of everything that it is made from."""
        method = self.plan.methods[run.method]
        sources = [self.key(source) for source in self.sources(run)]
        parts: list[Any] = [method.kind, self.backbone_key(run.backbone), sources, str(run.size or "")]
        if method.kind == "average":
            parts.append(list(method.weights))
        elif method.kind == "rotate":
            sizes, options = [str(size) for size in self.plan.sizes], options_of(self.plan, run)
            made_with = [repr(Search()), sizes, options.get("max_length"), run.seed]
            parts += [*made_with, self.data_key(run.data, run.limit)]
        elif method.kind not in ("untouched", "cut"):
            names = self.plan.references(method)
            # A method that is named counts as its model does, not by what it is called.
            named: dict[str, Any] = {
                name: ["method", self.key(self._source(run, value))] if value in names else value
                for name, value in effective_options(self.plan, run).items()
            }
            parts += [named, dict(method.loss_options), run.seed, self.data_key(run.data, run.limit)]
        return key_of(*parts)

    def backbone_key(self, name: str) -> str:
        """Return the key of a backbone."""
        backbone = self.plan.backbones[name]
        distilled = {**backbone.distill}
        data = distilled.pop("data", None)
        known = key_of_model(resolve_model(check_model(backbone.model)))
        pruned = [list(backbone.layers), distilled, self.data_key(str(data), None)] if data else []
        return key_of(known, backbone.pooling, pruned or list(backbone.layers))

    def data_key(self, name: str, limit: int | None) -> str:
        """Return the key of training data."""
        data = self.plan.data[name]
        files = [key_of_file(file) for file in self.files(data)]
        return key_of(files, limit or data.limit, dict(data.columns))

    def files(self, data: Data) -> list[str]:
        """Return the paths of some data, or say which is missing."""
        return [str(self.find(file)) for file in data.files]

    def find(self, name: str) -> Path:
        """Return the path of a file or folder of the data folder."""
        path = self.data_folder / name
        if not path.exists():
            raise UserError(
                f"{name} is not in the data folder {self.data_folder}: "
                f"name the right folder, as --data FOLDER, or get the file"
            )
        return path

    # --- models --------------------------------------------------------------------------------------

    def sources(self, run: Run) -> list[Run]:
        """Return the runs whose models a rotation, a cut or an average is made of."""
        return [self._source(run, name) for name in self.plan.methods[run.method].of]

    def _source(self, run: Run, name: str) -> Run:
        """Return the run of another method that belongs to this one: the same seed, backbone and data."""
        trained = is_trained(self.plan, self.plan.methods[name])
        data = run.data if trained else NO_DATA
        return with_choice(Run(name, run.backbone, data, run.seed), self.chosen)

    def model(self, run: Run) -> StoredModel:
        """Return the model of a run; it is made, with all that it needs, unless it was before."""
        kind = self.plan.methods[run.method].kind
        if kind == "untouched":
            backbone = self.plan.backbones[run.backbone]
            return StoredModel(self.backbone(run.backbone), None if backbone.layers else backbone.pooling)
        if kind == "cut":
            return self.model(self.sources(run)[0])
        goes_on = bool(options_of(self.plan, run).get("checkpoints"))
        return self._kept(self.key(run), lambda folder: _MAKERS[kind](self, run, folder), goes_on)

    def backbone(self, name: str) -> str:
        """Return where a backbone loads from; a pruned one is made first."""
        backbone = self.plan.backbones[name]
        if not backbone.layers:
            return resolve_model(check_model(backbone.model))
        key = key_of("backbone", self.backbone_key(name))
        return self._kept(key, lambda folder: pruned_backbone(self, backbone, folder)).path

    def forget(self, run: Run) -> None:
        """Delete the model of a run; what it cost is kept."""
        if self.plan.methods[run.method].kind not in ("untouched", "cut"):
            shutil.rmtree(self.cache / "models" / self.key(run), ignore_errors=True)

    def _kept(self, key: str, make: Callable[[Path], None], goes_on: bool = False) -> StoredModel:
        """Return a model that is there, or make it; one that `goes_on` starts where it was killed."""
        folder, note = self._places(key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Two processes may need the same teacher: one makes it, the other waits.
        with FileLock(folder.with_name(f"{key}.lock")):
            if not (folder.is_dir() and note.is_file()):
                before = _seconds_of_killed_runs(folder) if goes_on else 0.0
                with machine.measured() as cost:
                    make(folder)
                spent = {
                    "train_seconds": round(before + cost.seconds, 1),
                    "peak_memory_mb": round(cost.peak_memory_mb),
                    "machine": machine.facts(),
                }
                with staged_file(note) as temporary:
                    temporary.write_text(json.dumps(spent), encoding="utf-8")
        return StoredModel(str(folder), None, json.loads(note.read_text(encoding="utf-8")))

    def _places(self, key: str) -> tuple[Path, Path]:
        """Return the folder of a model, and the note of what it cost."""
        return self.cache / "models" / key, self.cache / "models" / f"{key}.json"

    def training(self, run: Run, output: Path, **more: Any) -> TrainingOptions:
        """Return the `TrainingOptions` of a run."""
        method, data = self.plan.methods[run.method], self.plan.data[run.data]
        options = options_of(self.plan, run)
        names = self.plan.references(method)
        for key in ("model", "teacher"):
            if options.get(key) in names:
                options[key] = self.model(self._source(run, str(options[key]))).path
        if "model" not in options:
            backbone = self.plan.backbones[run.backbone]
            options["model"] = self.backbone(run.backbone)
            options["pooling"] = None if backbone.layers else backbone.pooling
        values = {
            "checkpoints": False,
            **options,
            "data": self.files(data),
            "columns": dict(data.columns),
            "limit": run.limit or data.limit,
            "seed": run.seed,
            "output": str(output),
            **more,
        }
        return TrainingOptions.from_mapping(values, f"method {run.method}")


def _seconds_of_killed_runs(folder: Path) -> float:
    """Return how long a model was trained already that will go on where it was killed."""
    return seconds_before(run_folder_of(folder))


def _train(store: ModelStore, run: Run, folder: Path) -> None:
    _fit(store.training(run, folder))


def _fit(options: TrainingOptions) -> None:
    """Train, and go on where a killed run left checkpoints."""
    unfinished = options.checkpoints and last_complete_checkpoint(options.run_folder) is not None
    train(dataclasses.replace(options, resume=unfinished, overwrite=True), quiet=True)


def _fitted(store: ModelStore, run: Run, folder: Path) -> None:
    """Give the backbone heads that are fitted to its full size; nothing is trained."""
    whole = store.training(run, folder)
    names = ("model", "pooling", "data", "columns", "limit", "max_length", "seed", "output")
    fit(**{name: getattr(whole, name) for name in names}, overwrite=True, quiet=True)


def _rotated(store: ModelStore, run: Run, folder: Path) -> None:
    """Rotate the space of another method's model, as `train` does at its end."""
    whole = store.training(run, folder)
    (source,) = store.sources(run)
    made = store.model(source)
    encoder = ElasticEncoder(made.path, pooling=made.pooling, device=whole.device)
    mixture = read_mixture(whole.data, whole.columns or None, whole.limit)
    with max_length_of(encoder, whole.max_length):
        rotate_by(encoder, mixture, store.plan.sizes, whole.seed)
    with staged_folder(folder, overwrite=True) as staged:
        encoder.save(str(staged), create_model_card=False)


def _separate(store: ModelStore, run: Run, folder: Path) -> None:
    """Cut the backbone to n layers, then train it at d dims alone."""
    assert run.size is not None
    backbone = store.plan.backbones[run.backbone]
    pooling = None if backbone.layers else backbone.pooling
    whole = ElasticEncoder(store.backbone(run.backbone), pooling=pooling, device="cpu")
    base = folder.with_name(f"{folder.name}.cut")
    with staged_folder(base, overwrite=True) as staged:
        whole.truncate(Size(run.size.layers, whole.width)).save(str(staged), create_model_card=False)
    del whole
    own = {
        "model": str(base),
        "pooling": None,
        "strategy": "full",
        "strategy_options": {"dims": run.size.dims},
    }
    try:
        _fit(store.training(run, folder, **own))
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _sentence_transformers(store: ModelStore, run: Run, folder: Path) -> None:
    dims = sorted({size.dims for size in store.plan.sizes})
    loss = dict(store.plan.methods[run.method].loss_options)
    train_peer(store.training(run, folder), dims, loss)


def _average(store: ModelStore, run: Run, folder: Path) -> None:
    weights = store.plan.methods[run.method].weights
    paths = [store.model(source).path for source in store.sources(run)]
    average_models(paths, weights or (1.0,) * len(paths), folder)


_MAKERS: dict[str, Callable[[ModelStore, Run, Path], None]] = {
    "train": _train,
    "fit": _fitted,
    "rotate": _rotated,
    "separate": _separate,
    "sentence-transformers": _sentence_transformers,
    "average": _average,
}


# --- pruned backbones --------------------------------------------------------------------------------


def pruned_backbone(store: ModelStore, backbone: Backbone, output: Path) -> None:
    """Write a backbone that keeps some layers of its model, distilled from the whole if the plan says so."""
    whole = ElasticEncoder(resolve_model(backbone.model), pooling=backbone.pooling, device="cpu")
    pruned = keep_layers(whole, backbone.layers)
    if not backbone.distill:
        with staged_folder(output, overwrite=True) as folder:
            pruned.save(str(folder), create_model_card=False)
        return
    options = dict(backbone.distill)
    data = store.plan.data[str(options.pop("data"))]
    start = output.with_name(f"{output.name}.pruned")
    with staged_folder(start, overwrite=True) as folder:
        pruned.save(str(folder), create_model_card=False)
    try:
        values = {
            "strategy": "full",
            "objective": "distillation",
            "teacher": resolve_model(backbone.model),
            "checkpoints": False,
            **options,
            "model": str(start),
            "data": store.files(data),
            "columns": dict(data.columns),
            "limit": options.get("limit", data.limit),
            "output": str(output),
            "overwrite": True,
        }
        train(TrainingOptions.from_mapping(values, "backbone"), quiet=True)
    finally:
        shutil.rmtree(start, ignore_errors=True)


def keep_layers(whole: ElasticEncoder, layers: Sequence[int]) -> SentenceTransformer:
    """Return a plain model with some layers of another, in their order.

    Parameters
    ----------
    whole
        The model.
    layers
        Which layers, counted from 1, ascending.

    Raises
    ------
    UserError
        If a layer does not exist, or they are not ascending.

    Examples
    --------
    >>> from matryoshka2d.encoder import default_model_path
    >>> whole = ElasticEncoder(default_model_path(), device="cpu")
    >>> len(keep_layers(whole, [1, 3, 6])[0].model.encoder.layer)
    3
    """
    if list(layers) != sorted(set(layers)) or not layers or layers[0] < 1 or layers[-1] > whole.depth:
        raise UserError(f"layers {list(layers)}: expected ascending numbers from 1 to {whole.depth}")
    pruned = whole.truncate(Size(len(layers), whole.width))
    sources = layers_of(whole.base)
    for target, number in zip(layers_of(pruned[0].model), layers, strict=True):
        target.load_state_dict(sources[number - 1].state_dict())
    return pruned


# --- averaged weights --------------------------------------------------------------------------------


def average_models(paths: Sequence[str], weights: Sequence[float], output: str | Path) -> ElasticEncoder:
    """Write the weighted average of some models of one architecture.

    Parameters
    ----------
    paths
        Folders of the models. Where one has heads on its inner exits, the others count as having the
        identity there, which is what a missing head computes.
    weights
        One weight for each; they are scaled to sum to 1.
    output
        Folder that is written.

    Raises
    ------
    UserError
        If the weights do not sum to something above 0, the models differ in shape, or the space of one was
        rotated, which is then another space.
    """
    total = sum(weights)
    if not total > 0:
        raise UserError(f"weights {list(weights)} sum to {total}: expected more than 0")
    encoders = [ElasticEncoder(path, device="cpu") for path in paths]
    if any(encoder.rotated for encoder in encoders):
        raise UserError("a rotated model cannot be averaged: train without the rotation, with rotate: false")
    if any(encoder.heads is not None for encoder in encoders):
        for encoder in encoders:
            encoder.add_heads()
    first = encoders[0]
    states = [encoder.state_dict() for encoder in encoders]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(shape != shapes[0] for shape in shapes):
        raise UserError("models of different shape cannot be averaged: expected one architecture and depth")
    with torch.no_grad():
        for name, tensor in first.state_dict().items():
            if tensor.is_floating_point():
                shares = (weight / total * state[name] for weight, state in zip(weights, states, strict=True))
                tensor.copy_(torch.stack(list(shares)).sum(dim=0))
    sizes = {size for encoder in encoders for size in encoder.record.get("sizes", [])}
    first.record = {**first.record, "sizes": sorted(sizes, key=lambda size: tuple(map(int, size.split("x"))))}
    with staged_folder(output, overwrite=True) as folder:
        first.save(str(folder), create_model_card=False)
    return first


# --- sentence-transformers ---------------------------------------------------------------------------


_STRATEGY = "matryoshka2d"


class PeerTrainer(SentenceTransformerTrainer):
    """The library's trainer, blind to the column that only the batch sampler reads."""

    data_collator_class = GroupDroppingCollator


def train_peer(options: TrainingOptions, dims: Sequence[int], loss_options: Mapping[str, Any]) -> None:
    """Train with the library and write the model.

    Parameters
    ----------
    options
        Model, data, output, seed, rates and so on; strategy, objective and heads have no part in it.
    dims
        The widths that the loss samples from.
    loss_options
        Other arguments of ``Matryoshka2dLoss``.
    """
    set_seed(options.seed)
    precision = resolve_precision(options.precision, options.device or "auto")
    mixture = read_mixture(options.data, options.columns or None, options.limit)
    model = _load(options)
    model.model_card_data.generate_widget_examples = False
    with tempfile.TemporaryDirectory() as folder:
        trainer = PeerTrainer(
            model=model,
            args=_arguments(options, folder, precision.name, model.device.type == "cpu"),
            train_dataset=_only_or_all(mixture.datasets),
            loss=_only_or_all({name: _loss(model, dims, loss_options) for name in mixture.datasets}),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval()
    with staged_folder(options.output, overwrite=True) as staged:
        model.save(str(staged), create_model_card=False)


def _load(options: TrainingOptions) -> SentenceTransformer:
    name = resolve_model(options.model)
    if options.pooling:
        # A plain checkpoint becomes a stock model with the pooling that was asked for.
        whole = ElasticEncoder(name, pooling=options.pooling, device=options.device)
        model = SentenceTransformer(modules=list(whole), device=options.device)
    else:
        model = SentenceTransformer(name, device=options.device)
    model.max_seq_length = min(options.max_length, model.max_seq_length or options.max_length)
    if options.dropout is not None:
        set_dropout(model[0].model, options.dropout)
    return model


def _loss(model: SentenceTransformer, dims: Sequence[int], loss_options: Mapping[str, Any]) -> Any:
    base = losses.MultipleNegativesRankingLoss(model)
    return losses.Matryoshka2dLoss(model, base, list(dims), **loss_options)


def _only_or_all(table: Mapping[str, Any]) -> Any:
    return next(iter(table.values())) if len(table) == 1 else dict(table)


def _arguments(
    options: TrainingOptions, folder: str, precision: str, on_cpu: bool
) -> SentenceTransformerTrainingArguments:
    rate = options.learning_rate
    preset = preset_of(TrainingOptions(strategy=_STRATEGY))
    return SentenceTransformerTrainingArguments(
        output_dir=folder,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=preset.learning_rate if rate is None else rate,
        warmup_steps=min(options.warmup, 1 - 1e-9),
        weight_decay=options.weight_decay,
        optim="adamw_torch_fused",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=on_cpu,
        seed=options.seed,
        data_seed=options.seed,
        batch_sampler=FullBatchSampler,
        dataloader_drop_last=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
