"""Whether the nearest faces have the query's expression, and what a search through a million faces costs.

    python benchmarks/similar.py neighbours --data DATA
    python benchmarks/similar.py time [--rows 1000000] [--folder DIR]

`neighbours`: DATA holds ckplus48/, london/ and rafdb/. Of the ten nearest faces by cosine similarity, the share with
the query's expression, and the share of the same person, over all queries; 95 % intervals by 1,000 draws of
people. CK+ is read as crops, and the query's own sequence is left out (its three images are nearly one); London from
photos, end to end. The embeddings as they are, and less the mean of the table, standardised by the table, and
standardised by RAF-DB's train split.

`time`: writes a job of that many made-up faces (2.6 GB for a million), and searches it by `find_similar`, DuckDB and
Polars, each in a process and a thread of its own: seconds and memory. The first search reads the files into memory.
Linux only.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fergeneral import ExpressionExtractor
from fergeneral.datasets import open_dataset
from fergeneral.evaluate.cache import Crops
from fergeneral.jobs import run_job
from fergeneral.similar import find_similar
from fergeneral.sources import list_photos
from fergeneral.storage import read_table

NEAREST = 10
SHARD_ROWS = 10_000
MODEL = "general-r18-cycle"


def shares(embeddings: np.ndarray, labels: np.ndarray, people: np.ndarray, groups: np.ndarray) -> dict[str, str]:
    """`groups`: faces of the query's own are left out."""
    unit = embeddings / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    cosine = unit @ unit.T
    allowed = groups[:, None] != groups[None]
    cosine[~allowed] = -np.inf
    nearest = np.argsort(-cosine, axis=1)[:, :NEAREST]
    result = {}
    for name, column in (("expression", labels), ("person", people)):
        same = column[:, None] == column[None]
        share = np.take_along_axis(same, nearest, axis=1).mean(axis=1)
        chance = ((same & allowed).sum(axis=1) / allowed.sum(axis=1)).mean()
        result[name] = f"{share.mean():.3f} [{', '.join(f'{v:.3f}' for v in interval(share, people))}], {chance:.3f}"
    return result


def interval(values: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Of the mean, by drawing people."""
    _, person = np.unique(people, return_inverse=True)
    sums, counts = np.bincount(person, values), np.bincount(person)
    drawn = np.random.default_rng(0).integers(len(sums), size=(1000, len(sums)))
    return np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])


def neighbours(data: Path) -> None:
    extractor = ExpressionExtractor.from_pretrained(device="cpu")
    train = Crops(extractor.encoder, open_dataset(data / "rafdb").split("train")).embed("rafdb").embeddings
    ckplus = open_dataset(data / "ckplus48")
    paths = [Path(sample.path) for sample in ckplus.samples]
    sets = {
        "CK+": (
            Crops(extractor.encoder, ckplus).embed("ckplus48").embeddings,
            np.array(ckplus.labels),
            np.array([sample.subject for sample in ckplus.samples]),
            np.array([path.name[:8] for path in paths]),  # S010_004: person and sequence
        ),
        "London": london(extractor, data / "london"),
    }
    print("| set | embeddings | same expression [95 %], chance | same person [95 %], chance |\n|---|---|---|---|")
    for name, (x, *columns) in sets.items():
        forms = {
            "as they are": x,
            "less the table's mean": x - x.mean(axis=0),
            "standardised by the table": (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6),
            "standardised by RAF-DB's train": (x - train.mean(axis=0)) / (train.std(axis=0) + 1e-6),
        }
        for form, embeddings in forms.items():
            result = shares(embeddings, *columns)
            print(f"| {name}, {len(x)} faces | {form} | {result['expression']} | {result['person']} |")


def london(extractor: ExpressionExtractor, folder: Path) -> tuple[np.ndarray, ...]:
    """The largest face of each photo, found by the detector."""
    dataset = open_dataset(folder)
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place) / "photos"
        for sample, file in zip(dataset.samples, dataset.files(), strict=True):
            target = photos / Path(sample.path).parent.name / Path(sample.path).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file)
        run_job(extractor, list_photos(photos, recursive=True), Path(place) / "out")
        rows = read_table(Path(place) / "out")
    first = rows["face"] == 0
    files = [Path(path) for path in rows["path"][first]]
    print(f"London: a face in {len(files)} of {len(dataset.samples)} photos", file=sys.stderr)
    labels = np.array([file.parent.name for file in files])
    people = np.array([file.name[:3] for file in files])
    return rows["embedding"][first], labels, people, np.array([str(file) for file in files])


def write_job(folder: Path, rows: int) -> None:
    """As `run_job` writes it, but for the values: random, not negative, as the encoder's are."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    def vectors(array: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(array.astype(np.float32).ravel()), array.shape[1])

    generator = np.random.default_rng(0)
    for name in ("faces", "files"):
        (folder / name).mkdir(parents=True)
    for number, start in enumerate(range(0, rows, SHARD_ROWS)):
        count = min(SHARD_ROWS, rows - start)
        writer = None
        for low in range(0, count, 1024):  # rows that FaceTable writes at once
            n = min(1024, count - low)
            batch = pa.record_batch(
                {
                    "path": [f"photos/{start + low + i:08d}.jpg" for i in range(n)],
                    "face": pa.array(np.zeros(n, np.int32)),
                    "box": vectors(generator.uniform(0, 400, (n, 4))),
                    "landmarks": vectors(generator.uniform(0, 400, (n, 10))),
                    "score": pa.array(generator.uniform(0.9, 1, n).astype(np.float32)),
                    "embedding": vectors(generator.gamma(1, 0.2, (n, 512))),
                    "model_id": [MODEL] * n,
                }
            )
            writer = writer or parquet.ParquetWriter(folder / "faces" / f"part-{number:06d}.parquet", batch.schema)
            writer.write_batch(batch)
        if writer:
            writer.close()
        parquet.write_table(pa.table({"path": batch["path"]}), folder / "files" / f"part-{number:06d}.parquet")


def by_fergeneral(folder: Path, query: np.ndarray) -> list[str]:
    return [neighbour.path for neighbour in find_similar(query, folder, NEAREST)]


def by_duckdb(folder: Path, query: np.ndarray) -> list[str]:
    import duckdb

    sql = f"""
        SELECT path, face, box, list_cosine_similarity(embedding, $query::FLOAT[]) AS similarity
        FROM '{folder}/faces/*.parquet' ORDER BY similarity DESC LIMIT {NEAREST}"""
    connection = duckdb.connect(config={"threads": 1})
    return [row[0] for row in connection.execute(sql, {"query": query.tolist()}).fetchall()]


def by_polars(folder: Path, query: np.ndarray) -> list[str]:
    import polars as pl

    embedding = pl.col("embedding")
    unit = pl.lit((query / np.linalg.norm(query)).tolist(), dtype=pl.Array(pl.Float32, len(query)))
    similarity = (embedding * unit).arr.sum() / (embedding * embedding).arr.sum().sqrt()
    rows = pl.scan_parquet(f"{folder}/faces/*.parquet").select("path", "face", "box", similarity=similarity)
    return rows.top_k(NEAREST, by="similarity").collect(engine="streaming")["path"].to_list()


WAYS: dict[str, Callable[[Path, np.ndarray], list[str]]] = {
    "find_similar": by_fergeneral,
    "duckdb": by_duckdb,
    "polars": by_polars,
}


def search(way: str, folder: Path) -> None:
    """In this process: print the time, the memory taken beyond the imports and the paths found, as JSON."""
    query = np.random.default_rng(1).gamma(1, 0.2, 512).astype(np.float32)
    importlib.import_module("pyarrow.parquet" if way == "find_similar" else way)
    before = peak()
    start, cpu = time.perf_counter(), time.process_time()
    found = WAYS[way](folder, query)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu": cpu, "mb": peak() - before, "found": found}))


def peak() -> float:
    """Of this process's resident memory, in MB; getrusage would count its parent's, too."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def measured(folder: Path) -> Iterator[dict[str, object]]:
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    for way in ("find_similar", *WAYS):  # the first, to have the files in memory
        command = [sys.executable, __file__, "search", way, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **one_thread})
        yield {"way": way, **json.loads(done.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("neighbours")
    command.add_argument("--data", type=Path, required=True)
    command = commands.add_parser("time")
    command.add_argument("--rows", type=int, default=1_000_000)
    command.add_argument("--folder", type=Path)
    command = commands.add_parser("search")
    command.add_argument("way", choices=WAYS)
    command.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.command == "neighbours":
        neighbours(options.data)
    elif options.command == "search":
        search(options.way, options.folder)
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as place:
            write_job(Path(place) / "out", options.rows)
            cold, *results = measured(Path(place) / "out")
            print(f"first search, files perhaps not in memory: {cold['seconds']:.1f} s")
            print("| by | seconds | CPU seconds | MB taken |\n|---|---|---|---|")
            for result in results:
                print(f"| {result['way']} | {result['seconds']:.1f} | {result['cpu']:.1f} | {result['mb']:.0f} |")
                if set(result["found"]) != set(cold["found"]):  # type: ignore[call-overload]
                    sys.exit(f"{result['way']} found other faces")


if __name__ == "__main__":
    main()
