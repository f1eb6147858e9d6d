"""Make the packaged heads of one encoder: expressions-8 and expressions-7.

    python scripts/make_heads.py --data DATA --model general-r18-cpu --out weights/heads

Multinomial logistic regression on standardised embeddings of the train splits of all data sets, each set with the same
total weight, near-duplicates of test images left out. Targets are the annotators' votes where there are some, else the
label. The encoder saw most train images with their labels in pretraining, so that how well they are told apart says
little about other images: the strength of the penalty, how far classes are balanced, and the temperature are chosen on
FER+ valid and a seventh of AffectNet8's train split, neither of which is fitted on while choosing. The first is part of
no training. The test splits, CK+ and London are not read here: `fergeneral evaluate --head` judges the result.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from fergeneral.datasets import EXPRESSIONS, expression_of, open_dataset
from fergeneral.encoder import Encoder, weights_sha256
from fergeneral.evaluate.cache import EmbeddingCache
from fergeneral.evaluate.metrics import calibrate, score
from fergeneral.heads import Head, HeadConfig
from fergeneral.hub import load_encoder

SETS = ("rafdb", "ferplus", "affectnet8", "affectnet", "contempt")
CONTEMPT = EXPRESSIONS.index("contempt")
HELD_OUT = 7  # every seventh image of AffectNet8's train split is for choosing
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # lambda of lambda / 2 |W|^2 + mean cross-entropy
BALANCES = (0.0, 0.5, 1.0)  # classes are weighted by their share to the power of minus this
LICENSE = "research only, non-commercial: see the model card of the encoder"


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Some images of one data set: embeddings (n, 512), targets (n, 8) of sum 1, and weights (n,) of the images."""

    name: str
    embeddings: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def where(self, mask: np.ndarray) -> Part:
        """Some of them."""
        return Part(self.name, self.embeddings[mask], self.targets[mask], self.weights[mask])

    @property
    def labels(self) -> np.ndarray:
        """(n,) int: the class with the largest target."""
        return self.targets.argmax(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder that holds {', '.join(SETS)}")
    parser.add_argument("--model", help="encoder (default: the packaged default)")
    parser.add_argument("--out", type=Path, required=True, help="heads are written to OUT/ENCODER/HEAD")
    parser.add_argument("--cache", help="where embeddings are kept (default: the user's cache)")
    options = parser.parse_args()
    encoder = load_encoder(options.model, device="cpu")
    cache = EmbeddingCache(options.cache)
    train, validation = [], []
    for name in SETS:
        fitted_on, chosen_on = read(options.data / name, encoder, cache)
        train.append(fitted_on)
        validation += [chosen_on] if len(chosen_on.labels) else []
    for name, classes in (("expressions-8", range(8)), ("expressions-7", [i for i in range(8) if i != CONTEMPT])):
        head = make(name, list(classes), train, validation, encoder)
        head.save_pretrained(options.out / encoder.config.model_id / name)


def read(folder: Path, encoder: Encoder, cache: EmbeddingCache) -> tuple[Part, Part]:
    """What is fitted on, and what is chosen on."""
    dataset = open_dataset(folder, drop_duplicates=False)
    kept = {sample.path for sample in open_dataset(folder).samples}
    embeddings = cache.embed(encoder, dataset).embeddings
    labels = [EXPRESSIONS.index(expression_of(label)) for label in dataset.labels]
    targets = np.eye(len(EXPRESSIONS))[labels]
    for row, sample in enumerate(dataset.samples):
        if sample.votes is not None:
            targets[row] = sample.votes
    part = Part(folder.name, embeddings, targets, np.array([sample.weight for sample in dataset.samples]))
    in_train = np.array([sample.split in ("train", None) and sample.path in kept for sample in dataset.samples])
    if folder.name == "affectnet8":
        chosen = in_train & (np.arange(len(in_train)) % HELD_OUT == 0)
    else:
        chosen = np.array([sample.split == "val" for sample in dataset.samples])
    return part.where(in_train & ~chosen), part.where(chosen)


def make(name: str, classes: list[int], train: Sequence[Part], validation: Sequence[Part], encoder: Encoder) -> Head:
    """Choose, calibrate, and fit once more with what was held out of AffectNet8's train split."""
    train, validation = [restricted(p, classes) for p in train], [restricted(p, classes) for p in validation]
    names = [EXPRESSIONS[i] for i in classes]
    best, chosen, logits = -1.0, (0.0, 0.0), []
    for balance in BALANCES:
        x, y, w, mean, scale = stacked(train, balance)
        start = None
        for penalty in sorted(PENALTIES, reverse=True):
            start = fit(x, y, w, penalty, start)
            found = [logits_of(p.embeddings, mean, scale, *start) for p in validation]
            figures = [
                score([names[i] for i in p.labels], [names[i] for i in z.argmax(axis=1)], names)
                for p, z in zip(validation, found, strict=True)
            ]
            value = float(np.mean([(m.accuracy + m.uar) / 2 for m in figures]))
            shown = "  ".join(
                f"{p.name} {m.accuracy:.4f} / {m.uar:.4f}" for p, m in zip(validation, figures, strict=True)
            )
            print(f"{name}: balance {balance}, penalty {penalty:g}: {shown}", flush=True)
            if value > best:
                best, chosen, logits = value, (balance, penalty), found
    balance, penalty = chosen
    all_logits, all_labels = np.concatenate(logits), np.concatenate([p.labels for p in validation])
    calibration = calibrate(all_logits, all_labels, all_logits, all_labels)
    held_out = [p for p in validation if p.name == "affectnet8"]
    x, y, w, mean, scale = stacked([*train, *held_out], balance)
    weight, bias = fit(x, y, w, penalty, None)
    counts = {p.name: len(p.labels) for p in [*train]}
    for p in held_out:
        counts[p.name] += len(p.labels)
    config = HeadConfig(
        name=name,
        classes=tuple(names),
        encoder_id=encoder.config.model_id,
        encoder_sha256=weights_sha256(encoder),
        embedding_size=encoder.config.embedding_size,
        temperature=round(calibration.temperature, 4),
        method=f"logistic regression, L2 penalty {penalty:g}, class weights share ** -{balance:g}",
        training_data=tuple(f"{key} (train), {count} images" for key, count in counts.items()),
        license=LICENSE,
    )
    print(f"{name}: {chosen}, temperature {config.temperature}", flush=True)
    return Head(config, mean, scale, weight, bias)


def restricted(part: Part, classes: list[int]) -> Part:
    """Its images of these classes, with targets over them alone."""
    mass = part.targets[:, classes].sum(axis=1)
    keep = np.isin(part.labels, classes) & (mass > 0)
    targets = part.targets[keep][:, classes] / mass[keep, None]
    return Part(part.name, part.embeddings[keep], targets, part.weights[keep])


def stacked(
    parts: Sequence[Part], balance: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Standardised embeddings, targets, weights of mean 1, and the mean and scale."""
    weights = []
    for part in parts:
        same = [other for other in parts if other.name == part.name]
        weights.append(part.weights / sum(float(other.weights.sum()) for other in same))
    x, y = np.concatenate([p.embeddings for p in parts]), np.concatenate([p.targets for p in parts])
    w = np.concatenate(weights)
    share = (w[:, None] * y).sum(axis=0) / w.sum()
    w = w * (y * share**-balance).sum(axis=1)
    mean, scale = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 1e-6, scale, 1.0)
    x = (x - mean) / scale
    return (
        torch.tensor(x, dtype=torch.float32),
        torch.tensor(y).float(),
        torch.tensor(w / w.mean()).float(),
        mean,
        scale,
    )


def fit(
    x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, penalty: float, start: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (K, D) and bias (K,) by L-BFGS."""
    layer = torch.nn.Linear(x.shape[1], y.shape[1])
    with torch.no_grad():
        layer.weight.copy_(torch.zeros_like(layer.weight) if start is None else torch.tensor(start[0]))
        layer.bias.copy_(torch.zeros_like(layer.bias) if start is None else torch.tensor(start[1]))
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=300, tolerance_grad=1e-6, tolerance_change=1e-8, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (w * F.cross_entropy(layer(x), y, reduction="none")).mean()
        loss = loss + 0.5 * penalty * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()


def logits_of(
    embeddings: np.ndarray, mean: np.ndarray, scale: np.ndarray, weight: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """(n, K)."""
    return ((embeddings - mean) / scale) @ weight.T + bias


if __name__ == "__main__":
    main()
