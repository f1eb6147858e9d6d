"""The card of a head (README.md), in the Hub's form; every number comes from its head.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fergeneral.heads.head import HeadConfig

_WEAK = 0.5  # recall

_USE = """## Use and misuse

An expression is not an emotion. A class names how annotators called pictures of faces, not what the person in the
picture felt, meant or is; a probability says how sure the classifier is of that name. Do not use it to judge persons:
not for hiring, not for policing, border control or surveillance, not to detect lies, not in education, insurance or
credit, and not where the law forbids emotion recognition, as the EU's AI Act (Regulation 2024/1689, Article 5(1)(f))
does at work and in schools, except for medical or safety reasons.
"""


def head_card(config: HeadConfig) -> str:
    """The text of the card.

    Parameters
    ----------
    config : HeadConfig
        What the head says of itself. Of its `quality`, each entry that is an object with `accuracy` becomes a row of
        the table of results: see `fergeneral.evaluate.evaluate_head`.

    Returns
    -------
    str
        Markdown with the Hub's metadata at the top.
    """
    parts = (_metadata(config), _about(config), _USE, _data(config), _results(config))
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _metadata(config: HeadConfig) -> str:
    from huggingface_hub import ModelCardData

    card = ModelCardData(
        license="other",
        license_name="see-card",
        library_name="fergeneral",
        pipeline_tag="image-classification",
        tags=["facial-expression-recognition", "face"],
    )
    return f"---\n{card.to_yaml()}\n---"


def _about(config: HeadConfig) -> str:
    names = ", ".join(config.classes)
    return f"""# {config.name}

A classifier of facial expressions on frozen embeddings, for the encoder `{config.encoder_id}` alone. Its
{len(config.classes)} classes: {names}.

```python
from fergeneral import ExpressionClassifier

classifier = ExpressionClassifier.from_pretrained("FOLDER_OR_REPOSITORY")  # where this card lies
for face in classifier.predict("photo.jpg"):
    print(face.box, face.expression, face.confidence)
```

- **Files**: `head.safetensors` (standardisation and a linear layer) and `head.json`; data, never code.
- **Encoder**: `{config.encoder_id}`, whose weights have the SHA-256 `{config.encoder_sha256}`. Others are refused.
- **Method**: {config.method or "not stated"}; temperature {config.temperature:g}."""


def _data(config: HeadConfig) -> str:
    rows = [f"- {entry}" for entry in config.training_data] or ["Not stated."]
    return "\n".join(["## Training data and terms", "", *rows, "", f"Terms of use: {config.license or 'not stated'}."])


def _results(config: HeadConfig) -> str:
    rows = {name: row for name, row in config.quality.items() if isinstance(row, Mapping) and "accuracy" in row}
    if not rows:
        return "## Results\n\nNot measured."
    columns = ("data", "in training", "n", "accuracy", "UAR", "ECE", "with a face", "end to end: accuracy", "UAR")
    table = [_row(columns), "|---" * len(columns) + "|"]
    for name, row in rows.items():
        again = row.get("end_to_end") or {}
        figures = (
            _figure(row, "accuracy"),
            _figure(row, "uar"),
            _number(row.get("ece")),
            _number(row.get("with_face")),
        )
        found = (_figure(again, "accuracy"), _figure(again, "uar"))
        table.append(_row((name, str(row.get("status", "-")), str(row.get("n", "-")), *figures, *found)))
    classes = [label for label in config.classes if any(label in row.get("recall", {}) for row in rows.values())]
    recall = [_row(("recall", *classes)), "|---" * (len(classes) + 1) + "|"]
    recall += [_row((name, *_recalls(row, classes))) for name, row in rows.items()]
    lowest = {label: min(row["recall"][label] for row in rows.values() if label in row["recall"]) for label in classes}
    weak = [f"{label} ({value:.2f})" for label, value in lowest.items() if value < _WEAK]
    return "\n".join(
        [
            "## Results",
            "",
            "Accuracy and UAR (the mean of the class recalls) with 95 % bootstrap intervals; ECE is the expected",
            "calibration error in 15 bins. Of crops as they are; *end to end*: of the faces that the detector finds in",
            "these images again, by itself. For London, whose images are photos, all figures are end to end.",
            "",
            *table,
            "",
            *recall,
            "",
            f"Weak classes, found in less than half of their images of some data set: {', '.join(weak) or 'none'}.",
        ]
    )


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(row: Mapping[str, Any], name: str) -> str:
    interval = row.get(f"{name}_interval")
    span = f" ({interval[0]:.3f}-{interval[1]:.3f})" if interval else ""
    return _number(row.get(name)) + span


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"


def _recalls(row: Mapping[str, Any], classes: Iterable[str]) -> list[str]:
    return [_number(row.get("recall", {}).get(label)) for label in classes]
