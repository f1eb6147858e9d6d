"""How long a head of ten classes takes to fit on 1,000 faces, cross-validation and report among it.

    python benchmarks/fit_time.py

Random embeddings around a centre a class, near enough that the classes overlap; embedding photos is not in it.
"""

from __future__ import annotations

import time

import numpy as np

from fergeneral import ExpressionExtractor
from fergeneral.heads import fit_head


def main() -> None:
    encoder = ExpressionExtractor.from_pretrained(device="cpu").encoder
    generator = np.random.default_rng(0)
    centres = 0.5 * generator.normal(size=(10, encoder.config.embedding_size))
    y = np.arange(1000) % 10
    x = (centres[y] + generator.normal(size=(1000, encoder.config.embedding_size))).astype(np.float32)
    for _ in range(3):
        cpu, wall = time.process_time(), time.perf_counter()
        _, report = fit_head(x, y.tolist(), encoder)
        print(
            f"{time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} s of CPU time; {report.description}"
        )


if __name__ == "__main__":
    main()
