"""The figures of the README and of the model card, as Markdown.

    python benchmarks/report.py DATA [--peers PEERS] [--model FOLDER]

DATA is the folder that holds rafdb/, ferplus/ and ckplus48/. PEERS holds other systems' embeddings of RAF-DB's images
(.npz with path and embedding; rows of NaN, where a system found no face, are set to the mean of train). Every figure
is a linear probe (`fergeneral.evaluate.linear_probe`) on official splits without near-duplicates; test sets are read
once. Intervals are 95 % bootstrap intervals over the test images (1,000 draws, seed 0).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from fergeneral.datasets import Dataset, open_dataset
from fergeneral.evaluate import ProbeResult, embed_dataset, fit_probe, linear_probe
from fergeneral.extractor import ExpressionExtractor


def interval(result: ProbeResult) -> str:
    """Accuracy, UAR and their intervals, from the confusion: each class's images are drawn with the whole."""
    generator = np.random.default_rng(0)
    counts = result.confusion.ravel()
    draws = generator.multinomial(counts.sum(), counts / counts.sum(), size=1000).reshape(-1, *result.confusion.shape)
    right = np.diagonal(draws, axis1=1, axis2=2)
    per_class = draws.sum(axis=2)
    recall = np.divide(right, per_class, out=np.full(right.shape, np.nan), where=per_class > 0)
    accuracy, uar = right.sum(axis=1) / counts.sum(), np.nanmean(recall, axis=1)

    def show(value: float, sample: np.ndarray) -> str:
        low, high = np.percentile(sample, [2.5, 97.5])
        return f"{value:.3f} ({low:.3f}-{high:.3f})"

    return f"{show(result.accuracy, accuracy)} | {show(result.uar, uar)}"


def without(features: np.ndarray, dataset: Dataset, labels: set[str]) -> tuple[np.ndarray, list[str]]:
    keep = [i for i, label in enumerate(dataset.labels) if label not in labels]
    return features[keep], [dataset.labels[i] for i in keep]


def peer(path: Path, train: Dataset, test: Dataset) -> ProbeResult:
    stored = np.load(path)
    row_of = {Path(str(name)).stem: i for i, name in enumerate(stored["path"])}
    embeddings = stored["embedding"].astype(np.float32)
    parts = [embeddings[[row_of[Path(s.path).stem] for s in part.samples]] for part in (train, test)]
    mean = np.nanmean(parts[0], axis=0)
    parts = [np.where(np.isfinite(part), part, mean) for part in parts]
    return linear_probe(parts[0], train.labels, parts[1], test.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--model")
    options = parser.parse_args()
    extractor = ExpressionExtractor.from_pretrained(options.model)
    rafdb, ferplus = open_dataset(options.data / "rafdb"), open_dataset(options.data / "ferplus")
    ckplus = open_dataset(options.data / "ckplus48")
    parts = {"train": rafdb.split("train"), "test": rafdb.split("test")}
    parts |= {"f train": ferplus.split("train"), "f test": ferplus.split("test"), "ck": ckplus}
    x = {name: embed_dataset(extractor.encoder, part, show_progress=False) for name, part in parts.items()}

    def row(name: str, result: ProbeResult) -> None:
        print(f"| {name} | {interval(result)} |", flush=True)

    print("| probe | accuracy | UAR |\n|---|---|---|")
    own = linear_probe(x["train"], parts["train"].labels, x["test"], parts["test"].labels)
    row(f"{extractor.config.model_id}: RAF-DB", own)
    for path in sorted(options.peers.glob("*.npz")) if options.peers else []:
        row(f"{path.stem}: RAF-DB", peer(path, parts["train"], parts["test"]))
    row("FER+", linear_probe(x["f train"], parts["f train"].labels, x["f test"], parts["f test"].labels))
    rafdb_probe = fit_probe(x["train"], parts["train"].labels)
    row("RAF-DB -> FER+, 7 classes", rafdb_probe.read(*without(x["f test"], parts["f test"], {"contempt"})))
    six = fit_probe(*without(x["train"], parts["train"], {"neutral"}))
    row("RAF-DB -> CK+, 6 classes", six.read(*without(x["ck"], parts["ck"], {"contempt"})))
    print(f"\nRAF-DB, in full:\n\n```\n{own}\n```")


if __name__ == "__main__":
    main()
