"""Pictures are written whole, are not blank, and share one scale when they are compared."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.report import Scale, depth_curves, heatmap, save_figure, width_curves
from matryoshka2d.evaluation.report.figures import embedded, png_bytes
from tests.evaluation.report.grids import small_grid

DRAWERS: list[Callable[..., Figure]] = [heatmap, depth_curves, width_curves]


@pytest.mark.parametrize("draw", DRAWERS)
@pytest.mark.parametrize("many", [False, True])
def test_a_png_is_written_and_not_blank(tmp_path: Path, draw: Callable[..., Figure], many: bool) -> None:
    grids: Any = {"before": small_grid(), "after": small_grid(shift=5)} if many else small_grid()
    file = save_figure(draw(grids), tmp_path / "new" / "picture.png", dpi=60)
    pixels = matplotlib.image.imread(file)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20


@pytest.mark.parametrize("suffix", [".svg", ".pdf"])
def test_vector_formats(tmp_path: Path, suffix: str) -> None:
    file = save_figure(heatmap(small_grid()), tmp_path / f"picture{suffix}")
    assert file.stat().st_size > 1000


def test_the_same_numbers_give_the_same_png(tmp_path: Path) -> None:
    first, second = (save_figure(heatmap(small_grid()), tmp_path / f"{i}.png") for i in range(2))
    assert first.read_bytes() == second.read_bytes()


def test_a_heatmap_has_every_score_and_a_mark() -> None:
    texts = [text.get_text() for text in heatmap(small_grid()).axes[0].texts]
    assert len(texts) == len(small_grid().sizes)
    assert [text for text in texts if "▾" in text] == ["44.0▾"]


def test_titles_of_neighbors_do_not_overlap() -> None:
    long = "a name of an ablation, as long as they get in plans"
    figure = heatmap({long: small_grid(), f"{long} too": small_grid()})
    figure.draw_without_rendering()
    left, right = (axis.title.get_window_extent() for axis in figure.axes[:2])
    assert left.x1 < right.x0


def test_shared_colors() -> None:
    figure = heatmap({"before": small_grid(), "after": small_grid(shift=20)})
    limits = {axis.collections[0].get_clim() for axis in figure.axes[:2]}
    assert limits == {(44.0, 83.0)}
    fixed = heatmap(small_grid(), scale=Scale(0, 100))
    assert fixed.axes[0].collections[0].get_clim() == (0, 100)


def test_ink_is_black_or_white() -> None:
    assert {to_hex(text.get_color()) for text in heatmap(small_grid()).axes[0].texts} == {
        "#000000",
        "#ffffff",
    }


def test_curves_share_their_height_and_name_their_lines() -> None:
    figure = depth_curves({"before": small_grid(), "after": small_grid(shift=20)})
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["32 dims", "16 dims", "8 dims"]
    depths = [text.get_text() for text in width_curves(small_grid()).legends[0].get_texts()]
    assert depths == ["3 layers", "2 layers", "1 layer"]
    assert len(depth_curves(small_grid()).axes[0].lines) == 3


@pytest.mark.parametrize("draw", DRAWERS)
def test_twelve_layers_and_grids_of_other_shapes(draw: Callable[..., Figure]) -> None:
    draw({"deep": small_grid(layers=12, width=768), "shallow": small_grid(), "third": small_grid()})


def test_titles() -> None:
    assert heatmap(small_grid()).get_suptitle() == "toy, Spearman × 100, mean of 2 sets"
    assert heatmap(small_grid(), set_name="stsb").get_suptitle() == "toy, Spearman × 100, stsb"
    assert width_curves(small_grid(), title="mine").get_suptitle() == "mine"


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a name that ends in \.png"):
        save_figure(heatmap(small_grid()), tmp_path / "picture.jpeg")
    with pytest.raises(UserError, match="no grid to draw"):
        heatmap({})
    other = type(small_grid())(small_grid().sizes, {"cisi": small_grid().scores["stsb"]}, "ndcg@10")
    with pytest.raises(UserError, match="compare grids of the same metric and sets"):
        heatmap({"a": small_grid(), "b": other})


def test_pyplot_is_not_touched() -> None:
    import subprocess

    code = (
        "import sys; from tests.evaluation.report.grids import small_grid; "
        "import matryoshka2d.evaluation.report as r; "
        "assert 'matplotlib' not in sys.modules; r.heatmap(small_grid()); r.depth_curves(small_grid()); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_an_embedded_picture_is_the_same_in_fewer_bytes() -> None:
    figure = Figure(figsize=(4, 3))
    figure.subplots().imshow(np.linspace(0, 1, 48).reshape(6, 8))
    png = png_bytes(figure)
    start, _, data = embedded(png).partition(",")
    found = base64.b64decode(data)
    assert start == "data:image/png;base64"
    assert len(found) < len(png)
    whole, small = (
        np.asarray(Image.open(io.BytesIO(one)).convert("RGB")).astype(int) for one in (png, found)
    )
    assert whole.shape == small.shape
    assert np.abs(whole - small).mean() < 1
