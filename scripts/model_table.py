"""Write docs/models.md, the table of packaged models, from the records beside them: no number is typed in here.

python scripts/model_table.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fergeneral.hub import list_models
from fergeneral.terms import terms_of

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "weights"
PAGE = ROOT / "docs" / "models.md"
MEASURED = "25 November 2026, version 0.1.0"  # when benchmarks/speed.json was measured, which states no day
ABOUT = {  # what each is for
    "general-r18-cycle": "the default, trained on the most data",
    "general-r18-cycle-int8": "the default int8-quantized, for CPUs; needs the extra `onnx`",
    "crs-cont-cpu": "for tests on data never seen: FER+ and AffectNet8 were not in its training",
    "expressions-8": "the default head: eight expressions, contempt among them",
    "expressions-7": "seven expressions, without contempt",
}
DATA = {"rafdb": "RAF-DB", "ferplus": "FER+", "affectnet8": "AffectNet8", "ckplus": "CK+", "london": "London"}


def page() -> str:
    """The text of docs/models.md."""
    speed = read(ROOT / "benchmarks" / "speed.json")
    provenance = {entry["folder"]: entry for entry in read(WEIGHTS / "provenance.json")["weights"]}
    heads = sorted(
        WEIGHTS.glob("heads/*/*/head.json"),
        key=lambda path: (list_models().index(path.parent.parent.name), -int(path.parent.name[-1])),
    )
    encoders = [WEIGHTS / name for name in list_models()]
    return f"""# Model zoo

<!-- Made by scripts/model_table.py from the records in weights/ and benchmarks/: do not edit it by hand. -->

All of these come with the package; nothing is downloaded. Load one by its name, as in
`ExpressionExtractor.from_pretrained("{encoders[0].name}")` and
`ExpressionClassifier.from_pretrained("{heads[0].parent.name}")`.

**Terms.** Every encoder and head is for research only, non-commercial, since it was trained on images that are given
out for that alone. The code is under the MIT licence. What that means for a user: [terms](terms.md).

## Encoders

{table(("encoder", "what for", "network, crop", "embedding", "file"), (encoder_row(path) for path in encoders))}

### Training data and terms

{table(("encoder", "trained on", "images", "run", "terms"), (training_row(path, provenance) for path in encoders))}

The data sets, their terms and the hashes of the lists: [terms and provenance](terms.md#training-data).

### Quality

Linear probe on frozen embeddings, accuracy / UAR (mean of the class recalls), with 95 % bootstrap intervals over the
test images. RAF-DB: trained on its train split, evaluated on its test split. CK+: trained on RAF-DB's train split,
evaluated on CK+, of which no encoder has seen an image. From the cards, by `fergeneral evaluate`.

{table(("encoder", "RAF-DB", "CK+, 6 shared classes", "evaluated"), (quality_row(path) for path in encoders))}

### Speed

`encode` on one thread, CPU-milliseconds per aligned crop, one crop alone and 32 at once. {speed["cpu"]};
torch {speed["torch"]}; {MEASURED}. The encoders have the same network, whose time was measured with an earlier
training of it.

{table(("encoder", "one crop", "32 at once", "crops a second"), (speed_row(path, speed) for path in encoders))}

With detection, and beside other pipelines: [speed](../benchmarks/README.md#speed). No GPU was measured.

## Heads

Classifiers on the embeddings of one encoder. A head of an encoder is not accepted by another one.

{table(("head", "encoder", "what for", "classes", "images", "file"), (head_row(path, provenance) for path in heads))}

### Quality

Accuracy / UAR with 95 % bootstrap intervals, on face crops; London: on photos.
Images of a class that a head does not have are left out.

{table(("head", "encoder", *DATA.values()), (head_quality(path) for path in heads))}

RAF-DB, FER+ and AffectNet8: other images of the same data sets were in training. CK+ and London: never seen. CK+ has no
neutral faces, London has neutral and smiling ones alone. Recall of each class: the cards.

## Detectors

{table(("detector", "what for", "licence", "one face, 640x480", "one face, 12 megapixels"), detector_rows(speed))}

CPU-milliseconds per photo on one thread, on the machine and the day above. How often each finds a face, by group and
condition: [whom it works for](trust.md).
"""


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """In Markdown."""
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def card(folder: Path) -> str:
    """A name with a link to its card."""
    return f"[`{folder.name}`](../{folder.relative_to(ROOT).as_posix()}/README.md)"


def size(path: Path) -> str:
    """Of a file."""
    count = path.stat().st_size
    return f"{count / 1e6:.1f} MB" if count > 1e6 else f"{count / 1e3:.0f} kB"


def weights_file(folder: Path) -> Path:
    """The file that holds the numbers."""
    (file,) = (*folder.glob("*.safetensors"), *folder.glob("*.onnx"))
    return file


def encoder_row(folder: Path) -> tuple[str, ...]:
    config = read(folder / "config.json")
    network = f"{config['architecture']}, {config['crop_size']} px"
    return card(folder), ABOUT[folder.name], network, str(config["embedding_size"]), size(weights_file(folder))


def training_row(folder: Path, provenance: Mapping[str, Any]) -> tuple[str, ...]:
    terms = terms_of(folder.name)
    run = f"{terms.run['date']}, {terms.run['minutes']:.0f} minutes on {terms.run['device']}" if terms.run else ""
    data = ", ".join(data.title for data in terms.data)
    made = f"int8-quantized from {terms.made_from}" if terms.made_from else ""
    return card(folder), data, f"{provenance[folder.name]['images']:,}", made or run, terms.license.partition(":")[0]


def quality_row(folder: Path) -> tuple[str, ...]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    date = re.search(r"By `fergeneral evaluate`, ([\d-]+)", text)
    if date is None:  # no report was made: what the card says in words
        accuracy, uar = re.findall(r"accuracy ([\d.]+) and UAR ([\d.]+)", text)[0]
        return card(folder), f"{accuracy} / {uar} (no interval stored)", "not measured", "by `fergeneral probe`"
    figure = r"([\d.]+ \([\d.-]+\))"
    own = re.search(rf"\| RAF-DB train \| RAF-DB test \|[^|]*\|[^|]*\| {figure} \| {figure} \|", text)
    other = re.search(
        rf"\| RAF-DB train \|[^|]*\| CK\+, whole, 6 shared classes \|[^|]*\|[^|]*\| {figure} \| {figure} \|", text
    )
    if own is None or other is None:
        raise ValueError(f"{folder}/README.md has no such rows")
    return card(folder), f"{own[1]} / {own[2]}", f"{other[1]} / {other[2]}", date[1]


def speed_row(folder: Path, speed: Mapping[str, Any]) -> tuple[str, ...]:
    kind = "int8" if folder.name.endswith("int8") else "torch"
    figures = speed["1 thread(s)"]["encoder"]["ms a crop"]
    one, many = figures[f"{kind} 1"], figures[f"{kind} 32"]
    return card(folder), f"{one:.1f} ms", f"{many:.1f} ms", f"{1000 / many:,.0f}"


def head_row(file: Path, provenance: Mapping[str, Any]) -> tuple[str, ...]:
    config, folder = read(file), file.parent
    images = provenance[folder.relative_to(WEIGHTS).as_posix()]["images"]
    encoder = f"`{config['encoder_id']}`"
    return (
        card(folder),
        encoder,
        ABOUT[folder.name],
        str(len(config["classes"])),
        f"{images:,}",
        size(weights_file(folder)),
    )


def head_quality(file: Path) -> tuple[str, ...]:
    config = read(file)
    figures = (measured(config["quality"].get(name)) for name in DATA)
    return card(file.parent), f"`{config['encoder_id']}`", *figures


def measured(quality: Mapping[str, Any] | None) -> str:
    """Accuracy / UAR with their intervals."""
    if quality is None:
        return "not measured"
    parts = []
    for name in ("accuracy", "uar"):
        low, high = quality[f"{name}_interval"]
        parts.append(f"{quality[name]:.3f} ({low:.3f}-{high:.3f})")
    return " / ".join(parts)


def detector_rows(speed: Mapping[str, Any]) -> list[tuple[str, ...]]:
    about = {"mtcnn": "the default", "yunet": "faster; needs the extra `yunet`"}
    times = speed["detectors"]["ms"]

    def cell(scene: str, name: str) -> str:
        return f"{times[scene][f'fergeneral, {name}']:.0f} ms"

    return [
        (f"`{name}`", text, "[MIT](../THIRD_PARTY_NOTICES.md)", cell("one, 640x480", name), cell("one, 12 MP", name))
        for name, text in about.items()
    ]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
