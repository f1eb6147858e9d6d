"""Draw the figures of the explanations, into docs/images.

python scripts/draw_figures.py [NAME ...]

NAME is one of pipeline, method, london; by default all are drawn. `london` embeds the 204 photos of the Face
Research Lab London Set, in the folder that FERGENERAL_DATA names. The others need nothing but this repository.
"""

from __future__ import annotations

import csv
import io
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from PIL import Image

from fergeneral import ExpressionExtractor

ROOT = Path(__file__).parent.parent
LONDON = ROOT / "examples" / "london"
IMAGES = ROOT / "docs" / "images"

GREY, ORANGE, BLUE, GREEN, RED = "#8A8A8A", "#E69F00", "#56B4E9", "#009E73", "#D55E00"
COARSE = {"neutral": GREY, "positive": ORANGE, "surprise": BLUE, "negative": RED}


def pipeline() -> None:
    """A photo, its face, the crop, the embedding, the expressions: docs/images/pipeline.jpg."""
    photo = Image.open(LONDON / "smiling" / "025.jpg").convert("RGB")
    extractor = ExpressionExtractor.from_pretrained(device="cpu")
    (face,) = extractor.extract(photo)
    crop = extractor.align(photo, face.landmarks)
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.9), width_ratios=(1, 1, 1, 1.25), layout="constrained")
    for axis, picture, title in (
        (axes[0], photo, "photo"),
        (axes[1], photo, "detect: box, five landmarks"),
        (axes[2], crop, f"align: crop of {len(crop)} pixels"),
    ):
        axis.imshow(picture)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    left, top, right, bottom = face.box
    axes[1].add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False, color="#FFC400", linewidth=2))
    axes[1].scatter(*face.landmarks.T, s=14, color="#FFC400")
    axes[3].bar(np.arange(len(face.embedding)), face.embedding, width=1.0, color=GREEN)
    axes[3].set_title(f"encode: embedding of {len(face.embedding)} numbers", fontsize=10)
    axes[3].set_xlabel("number of the feature", fontsize=9)
    axes[3].tick_params(labelsize=8)
    axes[3].spines[["top", "right"]].set_visible(False)
    _save(figure, "pipeline.jpg")


def method() -> None:
    """The coarse classes with made-up points, the weights, the terms of the objective: docs/images/method-*.svg."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), width_ratios=(1.45, 1), layout="constrained")
    _circle(axes[0])
    _weights(axes[1])
    _save(figure, "method-classes.svg")
    figure, axis = plt.subplots(figsize=(10, 3.6), layout="constrained")
    _training(axis)
    _save(figure, "method-training.svg")


def _circle(axis: Axes) -> None:
    """Points on a circle around four directions; those of `negative` in five looser groups."""
    generator = np.random.default_rng(3)
    middles = {"neutral": (90, 9), "positive": (0, 9), "surprise": (45, 6), "negative": (215, 0)}
    for name, (angle, spread) in middles.items():
        if name == "negative":
            continue
        _points(axis, generator.normal(angle, spread, 26), COARSE[name], generator)
        _name(axis, angle, f"{name}", COARSE[name])
    for fine, angle in zip(("sadness", "anger", "disgust", "fear", "contempt"), range(160, 285, 29), strict=False):
        _points(axis, generator.normal(angle, 6, 12), COARSE["negative"], generator)
        _name(axis, angle, fine, COARSE["negative"], small=True)
    axis.text(
        0, -0.25, "negative:\none coarse class,\nfive expressions", color=COARSE["negative"], fontsize=11, ha="center"
    )
    axis.add_patch(plt.Circle((0, 0), 1, fill=False, color="#CCCCCC"))
    axis.set(xlim=(-1.8, 1.8), ylim=(-1.35, 1.35), aspect="equal")
    axis.axis("off")


def _points(axis: Axes, degrees: np.ndarray, colour: str, generator: np.random.Generator) -> None:
    radius = generator.normal(1, 0.03, len(degrees))
    angles = np.radians(degrees)
    axis.scatter(radius * np.cos(angles), radius * np.sin(angles), s=26, color=colour, alpha=0.75, linewidths=0)


def _name(axis: Axes, degrees: float, text: str, colour: str, *, small: bool = False) -> None:
    x, y = 1.17 * np.cos(np.radians(degrees)), 1.17 * np.sin(np.radians(degrees))
    side = "center" if abs(x) < 0.3 else ("left" if x > 0 else "right")
    axis.text(x, y, text, color=colour, fontsize=10 if small else 12, ha=side, va="center")


def _training(axis: Axes) -> None:
    """Boxes from an image to the three terms."""
    boxes = {
        "image": (0, 1.0, "image"),
        "one": (1.5, 1.6, "view 1"),
        "two": (1.5, 0.4, "view 2"),
        "encoder": (3.1, 1.0, "encoder f\n512 numbers"),
        "projection": (4.9, 1.0, "projection g\n128 numbers,\nlength 1"),
        "coarse": (6.7, 0.4, "coarse classifier\n4 logits"),
        "contrastive": (8.9, 1.85, "contrastive term\nweights w of the\nanchors' classes"),
        "cross": (8.9, 0.95, "cross-entropy"),
        "consistency": (8.9, 0.1, "consistency term\nboth views alike"),
    }
    for name, (x, y, text) in boxes.items():
        colour = "#FFF2D6" if name in ("contrastive", "cross", "consistency") else "#E3F1EC"
        style = {"boxstyle": "round,pad=0.45", "facecolor": colour, "edgecolor": GREY}
        axis.text(x, y, text, ha="center", va="center", fontsize=9.5, bbox=style)
    arrows = (
        ((0.35, 1.1), (1.1, 1.5)),
        ((0.35, 0.9), (1.1, 0.5)),
        ((1.9, 1.5), (2.5, 1.15)),
        ((1.9, 0.5), (2.5, 0.85)),
        ((3.7, 1.0), (4.22, 1.0)),
        ((5.55, 0.85), (5.98, 0.55)),
        ((5.55, 1.2), (8.15, 1.85)),
        ((7.45, 0.5), (8.3, 0.9)),
        ((7.45, 0.35), (8.15, 0.15)),
    )
    for start, end in arrows:
        axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color="#555555"))
    axis.set(xlim=(-0.5, 9.9), ylim=(-0.35, 2.3))
    axis.axis("off")


def _weights(axis: Axes) -> None:
    """The weight of each coarse class's anchors in the contrastive term."""
    names = list(COARSE)
    values = [0.5 if name == "negative" else 1.0 for name in names]
    bars = axis.bar(names, values, color=[COARSE[name] for name in names], width=0.6)
    axis.bar_label(bars, fmt="%.1f")
    axis.set_ylabel("weight w of an anchor")
    axis.set_ylim(0, 1.2)
    axis.spines[["top", "right"]].set_visible(False)


def london() -> None:
    """Two principal components of the embeddings of London's 204 photos: docs/images/london-map.png."""
    folder = Path(os.environ["FERGENERAL_DATA"]) / "london"
    with (folder / "people.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with zipfile.ZipFile(folder / "london-00.zip") as archive:
        photos = [Image.open(io.BytesIO(archive.read(row["path"]))).convert("RGB") for row in rows]
    extractor = ExpressionExtractor.from_pretrained(device="cpu")
    embeddings = np.stack([extractor.extract(photo)[0].embedding for photo in photos])
    centred = embeddings - embeddings.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    points = centred @ directions[:2].T
    share = singular**2 / (singular**2).sum()
    print(f"{len(points)} faces; the two components hold {share[0]:.1%} and {share[1]:.1%} of the variance")
    smiling = np.array([row["label"] == "happiness" for row in rows])
    subjects = np.array([row["subject"] for row in rows])
    figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
    for subject in np.unique(subjects):
        axis.plot(*points[subjects == subject].T, color="#DDDDDD", linewidth=0.7, zorder=1)
    for mask, name, colour in ((~smiling, "neutral", GREY), (smiling, "smiling", ORANGE)):
        axis.scatter(*points[mask].T, s=26, color=colour, label=f"{name}, {mask.sum()} photos", zorder=2)
    axis.set_xlabel(f"first principal component ({share[0]:.0%} of the variance)")
    axis.set_ylabel(f"second ({share[1]:.0%})")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    _save(figure, "london-map.png")


def _save(figure: Figure, name: str) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "fergeneral"  # the same file each time
    figure.savefig(IMAGES / name, dpi=110, metadata={"Date": None} if name.endswith(".svg") else None)
    plt.close(figure)


FIGURES: dict[str, Callable[[], None]] = {"pipeline": pipeline, "method": method, "london": london}

if __name__ == "__main__":
    wanted = sys.argv[1:] or list(FIGURES)
    for name in wanted:
        FIGURES[name]()
