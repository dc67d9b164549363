"""The workshop: makes the model of a unit, or finds it among those made before."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from matryoshka2d.encoder.loading import check_model, resolve_model
from matryoshka2d.errors import UserError
from matryoshka2d.files import staged_file, staged_folder
from matryoshka2d.training.rotation import Search
from matryoshka2d.training.training_options import TrainingOptions, run_folder_of
from matryoshka2d_reproduction import machine
from matryoshka2d_reproduction.keys import key_of, key_of_file, key_of_model
from matryoshka2d_reproduction.plan import Data, Plan
from matryoshka2d_reproduction.units import (
    NO_DATA,
    Chosen,
    Unit,
    effective_options,
    is_trained,
    options_of,
    with_choice,
)


@dataclass(frozen=True)
class Made:
    """A model that a unit is measured with.

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


class Workshop:
    """Makes models for the units of a plan; each is kept under a key of what it was made from.

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
        self.runs = Path(runs)

    # --- keys ----------------------------------------------------------------------------------------

    def key(self, unit: Unit) -> str:
        """Return the key of a unit's model: of everything that it is made from."""
        method = self.plan.methods[unit.method]
        sources = [self.key(source) for source in self.sources(unit)]
        parts: list[Any] = [method.kind, self.backbone_key(unit.backbone), sources, str(unit.size or "")]
        if method.kind == "average":
            parts.append(list(method.weights))
        elif method.kind == "rotate":
            sizes, options = [str(size) for size in self.plan.sizes], options_of(self.plan, unit)
            made_with = [repr(Search()), sizes, options.get("max_length"), unit.seed]
            parts += [*made_with, self.data_key(unit.data, unit.limit)]
        elif method.kind not in ("untouched", "cut"):
            names = self.plan.references(method)
            # A method that is named counts as its model does, not by what it is called.
            named: dict[str, Any] = {
                name: ["method", self.key(self._source(unit, value))] if value in names else value
                for name, value in effective_options(self.plan, unit).items()
            }
            parts += [named, dict(method.loss_options), unit.seed, self.data_key(unit.data, unit.limit)]
        return key_of(*parts)

    def backbone_key(self, name: str) -> str:
        """Return the key of a backbone."""
        backbone = self.plan.backbones[name]
        distilled = {**backbone.distil}
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

    def sources(self, unit: Unit) -> list[Unit]:
        """Return the units whose models a rotation, a cut or an average is made of."""
        return [self._source(unit, name) for name in self.plan.methods[unit.method].of]

    def _source(self, unit: Unit, name: str) -> Unit:
        """Return the unit of another method that belongs to this one: the same seed, backbone and data."""
        trained = is_trained(self.plan, self.plan.methods[name])
        data = unit.data if trained else NO_DATA
        return with_choice(Unit(name, unit.backbone, data, unit.seed), self.chosen)

    def model(self, unit: Unit) -> Made:
        """Return the model of a unit; it is made, with all that it needs, unless it was before."""
        kind = self.plan.methods[unit.method].kind
        if kind == "untouched":
            backbone = self.plan.backbones[unit.backbone]
            return Made(self.backbone(unit.backbone), None if backbone.layers else backbone.pooling)
        if kind == "cut":
            return self.model(self.sources(unit)[0])
        goes_on = bool(options_of(self.plan, unit).get("checkpoints"))
        return self._kept(self.key(unit), lambda folder: _MAKERS[kind](self, unit, folder), goes_on)

    def is_made(self, unit: Unit) -> bool:
        """Return whether the model of a unit is there."""
        kind = self.plan.methods[unit.method].kind
        if kind == "untouched":
            return True
        if kind == "cut":
            return self.is_made(self.sources(unit)[0])
        return all(path.exists() for path in self._places(self.key(unit)))

    def backbone(self, name: str) -> str:
        """Return where a backbone loads from; a pruned one is made first."""
        backbone = self.plan.backbones[name]
        if not backbone.layers:
            return resolve_model(check_model(backbone.model))
        from matryoshka2d_reproduction.pruning import pruned_backbone

        key = key_of("backbone", self.backbone_key(name))
        return self._kept(key, lambda folder: pruned_backbone(self, backbone, folder)).path

    def forget(self, unit: Unit) -> None:
        """Delete the model of a unit; what it cost is kept."""
        if self.plan.methods[unit.method].kind not in ("untouched", "cut"):
            shutil.rmtree(self.runs / "models" / self.key(unit), ignore_errors=True)

    def _kept(self, key: str, make: Callable[[Path], None], goes_on: bool = False) -> Made:
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
        return Made(str(folder), None, json.loads(note.read_text(encoding="utf-8")))

    def _places(self, key: str) -> tuple[Path, Path]:
        """Return the folder of a model, and the note of what it cost."""
        return self.runs / "models" / key, self.runs / "models" / f"{key}.json"

    def training(self, unit: Unit, output: Path, **more: Any) -> TrainingOptions:
        """Return the `TrainingOptions` of a unit."""
        method, data = self.plan.methods[unit.method], self.plan.data[unit.data]
        options = options_of(self.plan, unit)
        names = self.plan.references(method)
        for key in ("model", "teacher"):
            if options.get(key) in names:
                options[key] = self.model(self._source(unit, str(options[key]))).path
        if "model" not in options:
            backbone = self.plan.backbones[unit.backbone]
            options["model"] = self.backbone(unit.backbone)
            options["pooling"] = None if backbone.layers else backbone.pooling
        values = {
            "checkpoints": False,
            **options,
            "data": self.files(data),
            "columns": dict(data.columns),
            "limit": unit.limit or data.limit,
            "seed": unit.seed,
            "output": str(output),
            **more,
        }
        return TrainingOptions.from_mapping(values, f"method {unit.method}")


def _seconds_of_killed_runs(folder: Path) -> float:
    """Return how long a model was trained already that will go on where it was killed."""
    from matryoshka2d.training.checkpoints import seconds_before

    return seconds_before(run_folder_of(folder))


def _train(shop: Workshop, unit: Unit, folder: Path) -> None:
    _fit(shop.training(unit, folder))


def _fit(options: TrainingOptions) -> None:
    """Train, and go on where a killed run left checkpoints."""
    from matryoshka2d.training import train
    from matryoshka2d.training.checkpoints import last_complete_checkpoint

    unfinished = options.checkpoints and last_complete_checkpoint(options.run_folder) is not None
    train(dataclasses.replace(options, resume=unfinished, overwrite=True), quiet=True)


def _fitted(shop: Workshop, unit: Unit, folder: Path) -> None:
    """Give the backbone heads that are fitted to its full size; nothing is trained."""
    from matryoshka2d.training import fit

    whole = shop.training(unit, folder)
    names = ("model", "pooling", "data", "columns", "limit", "max_length", "seed", "output")
    fit(**{name: getattr(whole, name) for name in names}, overwrite=True, quiet=True)


def _rotated(shop: Workshop, unit: Unit, folder: Path) -> None:
    """Turn the space of another method's model, as `train` does at its end."""
    from matryoshka2d.data import read_mixture
    from matryoshka2d.encoder.elastic import ElasticEncoder
    from matryoshka2d.training.model_settings import max_length_of
    from matryoshka2d.training.rotation import rotate_by

    whole = shop.training(unit, folder)
    (source,) = shop.sources(unit)
    made = shop.model(source)
    encoder = ElasticEncoder(made.path, pooling=made.pooling, device=whole.device)
    mixture = read_mixture(whole.data, whole.columns or None, whole.limit)
    with max_length_of(encoder, whole.max_length):
        rotate_by(encoder, mixture, shop.plan.sizes, whole.seed)
    with staged_folder(folder, overwrite=True) as staged:
        encoder.save(str(staged), create_model_card=False)


def _separate(shop: Workshop, unit: Unit, folder: Path) -> None:
    """Cut the backbone to n layers, then train it at d dims alone."""
    from matryoshka2d.encoder.elastic import ElasticEncoder
    from matryoshka2d.size import Size

    assert unit.size is not None
    backbone = shop.plan.backbones[unit.backbone]
    pooling = None if backbone.layers else backbone.pooling
    whole = ElasticEncoder(shop.backbone(unit.backbone), pooling=pooling, device="cpu")
    base = folder.with_name(f"{folder.name}.cut")
    with staged_folder(base, overwrite=True) as staged:
        whole.truncate(Size(unit.size.layers, whole.width)).save(str(staged), create_model_card=False)
    del whole
    own = {
        "model": str(base),
        "pooling": None,
        "strategy": "full",
        "strategy_options": {"dims": unit.size.dims},
    }
    try:
        _fit(shop.training(unit, folder, **own))
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _sentence_transformers(shop: Workshop, unit: Unit, folder: Path) -> None:
    from matryoshka2d_reproduction.peer import train_peer

    dims = sorted({size.dims for size in shop.plan.sizes})
    loss = dict(shop.plan.methods[unit.method].loss_options)
    train_peer(shop.training(unit, folder), dims, loss)


def _average(shop: Workshop, unit: Unit, folder: Path) -> None:
    from matryoshka2d_reproduction.averaging import average_models

    weights = shop.plan.methods[unit.method].weights
    paths = [shop.model(source).path for source in shop.sources(unit)]
    average_models(paths, weights or (1.0,) * len(paths), folder)


_MAKERS: dict[str, Callable[[Workshop, Unit, Path], None]] = {
    "train": _train,
    "fit": _fitted,
    "rotate": _rotated,
    "separate": _separate,
    "sentence-transformers": _sentence_transformers,
    "average": _average,
}
