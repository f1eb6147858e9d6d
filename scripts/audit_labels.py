"""What share of each data set's training labels an encoder contradicts with confidence.

    python scripts/audit_labels.py --data DATA [--model NAME] [--cache DIR]

Five folds over the train split: a linear probe (C = 0.01) trained on four predicts the fifth. A label is contradicted
where another expression has a probability of at least 0.8, and doubtful where the label has less than 0.05. The encoder
itself may have been trained with these labels, which makes it agree with them more often: the shares are lower bounds.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.special import softmax
from sklearn.model_selection import StratifiedKFold

from fergeneral.datasets import expression_of, open_dataset
from fergeneral.evaluate.cache import EmbeddingCache
from fergeneral.evaluate.logistic import Standardised
from fergeneral.hub import load_encoder

DATA = ("rafdb", "ferplus", "affectnet8", "affectnet")  # contempt has a single label
C = 0.01
CONFIDENT, DOUBTFUL = 0.8, 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder that holds {', '.join(DATA)}")
    parser.add_argument("--model", help="encoder (default: the packaged default)")
    parser.add_argument("--cache", help="where embeddings are kept (default: the user's cache)")
    options = parser.parse_args()
    encoder, cache = load_encoder(options.model, device="cpu"), EmbeddingCache(options.cache)
    print("| data set | training images | contradicted | doubtful | most often (label -> prediction) |")
    print("| --- | --- | --- | --- | --- |")
    for name in DATA:
        dataset = open_dataset(options.data / name, drop_duplicates=False)
        in_train = np.array([sample.split == "train" for sample in dataset.samples])
        x = cache.embed(encoder, dataset).embeddings[in_train]
        labels = np.array([expression_of(label) for label in dataset.labels])[in_train]
        classes, y = np.unique(labels, return_inverse=True)
        p = predicted(x, y, len(classes))
        guess = p.argmax(axis=1)
        wrong = (p.max(axis=1) >= CONFIDENT) & (guess != y)
        doubtful = p[np.arange(len(y)), y] < DOUBTFUL
        pairs = Counter(zip(classes[y[wrong]], classes[guess[wrong]], strict=True)).most_common(3)
        shown = ", ".join(f"{label} -> {other} {count}" for (label, other), count in pairs)
        print(f"| {name} | {len(y):,} | {wrong.mean():.1%} | {doubtful.mean():.1%} | {shown} |", flush=True)


def predicted(x: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
    """(N, classes): probabilities of each image by a probe that was not trained on it."""
    p = np.empty((len(y), classes))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(x, y):
        ((weights, bias),) = Standardised(x[train], y[train], classes).fit([C])
        p[test] = softmax(x[test] @ weights + bias, axis=1)
    return p


if __name__ == "__main__":
    main()
