"""The model card: what the weights are for, what they were made of, and how good they are, in the Hub's form.

Every number comes from a record: the report.json of `fergeneral evaluate`, or the training.json that a training run
writes beside its weights. What has no record is said to be unknown. The terms of the known data sets stand here alone.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fergeneral.errors import DataError

if TYPE_CHECKING:
    from fergeneral.encoder import EncoderConfig

Row = Mapping[str, Any]

INT8_SUFFIX = "-int8"  # of the model_id of int8-quantized weights: other numbers, another name

_ANY = "FOLDER_OR_REPOSITORY"  # where it is not known where the card will lie
_WHERE = "  # where this card lies"
_OR_HUB = '  # or "hf-hub:OWNER/NAME"'
_LOW_RESOLUTION = "low resolution"  # the group of robustness conditions that has a table of its own


@dataclasses.dataclass(frozen=True)
class DatasetTerms:
    """A known data set: `title` as its authors write it, where it comes from, and the terms it is given under."""

    title: str
    source: str
    terms: str


TERMS = {
    "rafdb": DatasetTerms(
        "RAF-DB",
        "Li, Deng, Du: *Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition in the "
        "Wild*, CVPR 2017",
        "given for non-commercial research, after an agreement",
    ),
    "affectnet": DatasetTerms(
        "AffectNet-part",
        "a mirror of web faces cut out along the face mesh, named after AffectNet (Mollahosseini, Hasani, Mahoor, "
        "*IEEE Transactions on Affective Computing*, 2019); that its photos are AffectNet's is inferred from the name, "
        "not documented",
        "AffectNet is given for non-commercial research, after an agreement",
    ),
    "affectnet8": DatasetTerms(
        "AffectNet8",
        "a public object-detection version of AffectNet (two thirds; Mollahosseini, Hasani, Mahoor, *IEEE Transactions "
        "on Affective Computing*, 2019) and FFHQ (Karras, Laine, Aila, CVPR 2019), labelled by that version, faces "
        "with their surroundings, aligned",
        "AffectNet is given for non-commercial research, after an agreement; FFHQ is under CC BY-NC-SA 4.0",
    ),
    "ferplus": DatasetTerms(
        "FER+",
        "labels by Barsoum, Zhang, Canton Ferrer, Zhang: *Training Deep Networks for Facial Expression Recognition "
        "with Crowd-Sourced Label Distribution*, ICMI 2016; photos of FER2013, from a web search",
        "the labels are under the MIT licence, the photos under no open licence",
    ),
    "contempt": DatasetTerms(
        "the contempt set",
        "web faces labelled contempt, from a mirror; that they are AffectNet's is inferred, not documented",
        "AffectNet is given for non-commercial research, after an agreement",
    ),
    "ckplus": DatasetTerms(
        "CK+",
        "Lucey, Cohn, Kanade, Saragih, Ambadar, Matthews: *The Extended Cohn-Kanade Dataset (CK+): A Complete Dataset "
        "for Action Unit and Emotion-Specified Expression*, CVPR Workshops 2010",
        "given for non-commercial research, after an agreement",
    ),
}

_USE = """## Intended use

Research on facial expressions: features for classifiers of expressions with labels of your own, retrieval of similar
expressions, comparison with other encoders. The embedding is of a face crop, aligned as `config.json` says; `extract`
does that from a photo.

## Misuse

An expression is not an emotion. The same face is made for many reasons, the same feeling shows in many faces or in
none, and a label such as "anger" says how annotators named a picture, not what the person in it felt, meant or is.

Do not use these weights to judge persons: not for hiring, not for policing, border control or surveillance, not to
detect lies, not in education, insurance or credit, and not where the law forbids emotion recognition. In the European
Union, for one, the AI Act (Regulation 2024/1689, Article 5(1)(f)) forbids it at work and in schools, except for
medical or safety reasons.
"""

_MORE = (
    "`fergeneral info --terms FOLDER` prints the terms and the provenance, the hashes of the lists of images included."
)

_CITATION = """## Citation

The objective CRS-CONT, which fergeneral implements independently, is due to its authors; they released no weights, and
these are not theirs. Please cite their paper:

```bibtex
@article{li2022crscont,
  title   = {{CRS-CONT}: A Well-Trained General Encoder for Facial Expression Analysis},
  author  = {Li, Hangyu and Wang, Nannan and Yang, Xi and Gao, Xinbo},
  journal = {IEEE Transactions on Image Processing},
  volume  = {31},
  year    = {2022},
  doi     = {10.1109/TIP.2022.3186536}
}
```
"""


def model_card(
    config: EncoderConfig,
    *,
    report: Row | None = None,
    training: Row | None = None,
    notes: str | None = None,
    repository: str | None = None,
) -> str:
    """The text of a Hub model card (README.md) for the weights that `config` describes.

    `report`: the report.json of `fergeneral evaluate` on these weights; `training`: the training.json of the run that
    made them; `notes`: Markdown of your own on known failure modes, put in as it is. Without one of them its part of
    the card says that nothing is known. `repository`: the id of the Hub repository that the card is for, if any.
    Raises DataError for a record that lacks a field or is of other weights.
    """
    with reading("the training record"):
        check_training(config, training)
        recipe = _recipe(training)
        data = _data_and_terms(config, training)
    with reading("the report"):
        _check_report(config, report)
        metadata = _metadata(config, report)
        results = _results(config, report)
        limits = _limits(report, notes)
    code = _head(config, repository), _other_libraries(config, repository)
    parts = (metadata, *code, _USE, data, recipe, results, limits, _CITATION)
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def license_text(config: EncoderConfig) -> str:
    """The text of LICENSE.md, to which the card's metadata link: the licence of the weights and where it comes from."""
    return f"# Licence of the weights {config.model_id}\n\n{_terms(config, {})}\n"


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn a field that is not there, or of another kind, into a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"{what} lacks the field {error}; was it written by this version of fergeneral?") from error
    except (TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise DataError(f"{what} holds a field of the wrong kind: {error}") from error


def _check_report(config: EncoderConfig, report: Row | None) -> None:
    if report is None:
        return
    model = report["model"]
    if model["weights_sha256"] != config.weights_sha256:
        raise DataError(
            f"the report is of {model['model_id']} (SHA-256 {model['weights_sha256']!r}), the card is for "
            f"{config.model_id} ({config.weights_sha256!r}); evaluate these weights"
        )


def check_training(config: EncoderConfig, training: Row | None) -> None:
    """Raise DataError for the record of a run that made other weights."""
    if training is None:
        return
    for field in ("architecture", "crop_size"):
        if training["recipe"][field] != getattr(config, field):
            raise DataError(
                f"the training record is of other weights: its recipe has the {field} {training['recipe'][field]!r}, "
                f"config.json has {getattr(config, field)!r}"
            )
    digest = training.get("weights_sha256", config.weights_sha256)
    if digest != config.weights_sha256:
        raise DataError(f"the training record is of other weights: SHA-256 {digest!r}, not {config.weights_sha256!r}")


# The metadata


def _metadata(config: EncoderConfig, report: Row | None) -> str:
    """The YAML block at the top, by the Hub's own classes."""
    from huggingface_hub import ModelCardData

    card = ModelCardData(
        license="other",
        license_name="research-only" if _known(config) else "see-license-file",
        license_link="LICENSE.md",
        library_name="fergeneral",
        pipeline_tag="image-feature-extraction",
        tags=["facial-expression-recognition", "face", "embeddings", *_libraries(config)],
        datasets=list(dict.fromkeys(map(_dataset_of, config.training_data))) or None,
        metrics=None if report is None else ["accuracy", "recall", "f1"],
        model_name=config.model_id,
        eval_results=_eval_results(report) or None,
    )
    if not card.eval_results:
        card.pop("model_name")  # it belongs to the model-index
    return f"---\n{card.to_yaml()}\n---"


def _eval_results(report: Row | None) -> list[Any]:
    """Accuracy, UAR and macro-F1 of the linear probe, near-duplicates out: `EvalResult`s for the model-index."""
    from huggingface_hub import EvalResult

    metrics = (
        ("accuracy", "accuracy", "Accuracy", None),
        ("uar", "recall", "UAR (mean of the class recalls)", {"average": "macro"}),
        ("macro_f1", "f1", "Macro-F1", {"average": "macro"}),
    )
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Facial expression recognition, linear probe on frozen embeddings",
            dataset_type=row["test"],
            dataset_name=title_of(row["test"]),
            dataset_config=None if row["train"] == row["test"] else f"probe trained on {row['train']}",
            dataset_split="test",
            metric_type=kind,
            metric_name=name,
            metric_value=round(float(row[field]), 4),
            metric_args=arguments,
        )
        for row in _probe_rows(report)
        for field, kind, name, arguments in metrics
    ]


# The parts


def _head(config: EncoderConfig, repository: str | None) -> str:
    size = config.crop_size
    weights = "`model.onnx` (int8-quantized)" if _is_int8(config) else "`model.safetensors` (fp16)"
    return f"""# {config.model_id}

A frozen {config.architecture} that turns an aligned face crop of {size} x {size} pixels into an embedding of its
expression, {config.embedding_size} numbers. The weights are in {weights}; `config.json` says how a
crop is prepared for them.

```python
from fergeneral import ExpressionExtractor

extractor = ExpressionExtractor.from_pretrained("{repository or _ANY}"){"" if repository else _WHERE}
for face in extractor.extract("photo.jpg"):
    print(face.box, face.score, face.embedding.shape)
```"""


def _other_libraries(config: EncoderConfig, repository: str | None) -> str:
    """How other libraries load the same weights."""
    libraries = _libraries(config)
    if not libraries:
        origin = config.model_id.removesuffix(INT8_SUFFIX)
        return f"timm and transformers cannot read int8-quantized weights; give them `{origin}`, its float weights."
    name = f"hf-hub:{repository}" if repository else "local-dir:FOLDER"
    parts = [
        f"""### In {" and ".join(libraries)}

Other libraries load the same weights and give the same embeddings, but they do not detect or align faces. A crop that
is not aligned gives another embedding, so cut the crops with `extractor.align`:

```python
crops = [extractor.align("photo.jpg", face.landmarks) for face in extractor.extract("photo.jpg")]
```""",
        f"""```python
import timm
import torch
from PIL import Image

network = timm.create_model("{name}", pretrained=True).eval(){"" if repository else _OR_HUB}
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
with torch.inference_mode():
    embeddings = network(torch.stack([transform(Image.fromarray(crop)) for crop in crops]))
```""",
        f"""```python
import torch
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("{repository or _ANY}")
model = AutoModel.from_pretrained("{repository or _ANY}")
with torch.inference_mode():
    embeddings = model(**processor(crops)).pooler_output
```""",
    ]
    return "\n\n".join(parts[: 1 + len(libraries)])


def _libraries(config: EncoderConfig) -> list[str]:
    """The other libraries that read these weights. transformers leaves out a layer that follows timm's features."""
    from fergeneral.encoder import empty_network, feature_size

    if _is_int8(config):
        return []
    own_features = feature_size(empty_network(config)) == config.embedding_size
    return ["timm", "transformers"] if own_features else ["timm"]


def _is_int8(config: EncoderConfig) -> bool:
    return config.model_id.endswith(INT8_SUFFIX)


def _data_and_terms(config: EncoderConfig, training: Row | None) -> str:
    record = {"images": {}} if training is None else training
    hashes = "\n".join(f"- {title_of(name)}: `{digest}`" for name, digest in record.get("list_sha256", {}).items())
    lists = f"SHA-256 of the lists of images (`fergeneral.datasets.list_sha256`):\n\n{hashes}" if hashes else ""
    parts = ("## Training data and terms", _terms(config, record["images"]), lists, _MORE)
    return "\n\n".join(part for part in parts if part)


def _terms(config: EncoderConfig, images: Mapping[str, int]) -> str:
    """The licence, then the data it comes from, with the number of images where `images` has it."""
    stated = config.license.removesuffix(": see the model card")  # which this is
    if _known(config):
        stated = stated or "research only, non-commercial"
        about = "The weights were trained on images that are not openly licensed:"
    else:
        stated = stated or "no licence was stated by whoever trained these weights"
        about = ""
    head = f"**{stated[:1].upper()}{stated[1:]}.** {about}".strip()
    if not config.training_data:
        head += " `config.json` does not say what they were trained on."
    lines = []
    for entry in config.training_data:
        count, terms = images.get(_dataset_of(entry)), TERMS.get(_dataset_of(entry))
        name = f"**{title_of(entry)}** {_split(entry)}".strip() + (f", {count:,} images" if count else "")
        source = f"{terms.source}; {terms.terms}." if terms else "fergeneral does not know its source and terms."
        lines.append(f"- {name}: {source}")
    notice = "No training image comes with the weights. They are not under the MIT licence of fergeneral's code."
    return "\n\n".join(part for part in (head, "\n".join(lines), notice) if part)


def _recipe(training: Row | None) -> str:
    if training is None:
        return "## Training\n\nNo record of the training run was given when this card was written."
    recipe, images, drawn = training["recipe"], sum(training["images"].values()), training["images_drawn"]
    stages = ", ".join(f"{stage['pixels']} px for {stage['share']:.0%}" for stage in recipe["stages"])
    lines = (
        f"- **Cost**: {_cost(float(training['minutes']), training['device'])}.",
        f"- **When, with what**: {training['date']}, PyTorch {training['torch']}.",
        f"- **Images**: {images:,}; {drawn:,} were drawn in {training['steps']:,} steps ({drawn / images:.1f} epochs).",
        f"- **Started from**: {training['started_from'] or 'random weights'}.",
        f"- **Recipe**: `{recipe['name']}`; objective {recipe['objective']}; {recipe['optimizer']}, learning rate "
        f"{recipe['learning_rate']:g}; {recipe['batch_size']} images a step; input of {stages} of the schedule.",
    )
    fields = f"```json\n{json.dumps(recipe, indent=2)}\n```"
    return (
        f"## Training\n\n```sh\n{training['command'].strip()}\n```\n\n" + "\n".join(lines) + "\n\n"
        f"{_history_table(training)}<details><summary>All fields of the recipe</summary>\n\n{fields}\n\n</details>"
    )


def _history_table(training: Row) -> str:
    """The runs before this one; "" where there were none."""
    rows = training.get("history") or []
    if not rows:
        return ""
    lines = [
        f"| `{row['name']}` | {row['started_from'] or 'random weights'} | {row['date']} | "
        f"{_cost(float(row['minutes']), row['device'])} | {row['images_drawn']:,} |"
        for row in rows
    ]
    head = "| run | started from | date | cost | images drawn |\n| --- | --- | --- | --- | --- |"
    return "Runs before it:\n\n" + "\n".join([head, *lines]) + "\n\n"


def _cost(minutes: float, device: str) -> str:
    """`device` is "cpu..." or the name of a GPU, with "N x " before it where there were several."""
    shown = f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.1f}"
    if device.lower().startswith("cpu"):
        return f"{shown} minutes on {device}, no GPU"
    several = re.match(r"(\d+) x ", device)
    gpu_minutes = minutes * int(several[1]) if several else minutes
    return f"{gpu_minutes:.0f} GPU-minutes ({shown} minutes on {device})"


def _results(config: EncoderConfig, report: Row | None) -> str:
    if report is None:
        return "## Results\n\nNot measured: no evaluation report was given when this card was written."
    pretraining = ", ".join(f"{title_of(entry)} {_split(entry)}".strip() for entry in config.training_data)
    parts = [
        "## Results",
        f"By `fergeneral evaluate`, {report['environment']['date'][:10]}, seed {report['seed']}. In brackets: 95 % "
        "bootstrap intervals over the test images. UAR is the mean of the class recalls. *In-sample*: the images were "
        "in pretraining; *held-out*: others of the same data set were; *never seen*: none of it was. Pretraining saw "
        f"{pretraining or 'data that config.json does not name'}.",
        _probe_table(report),
        _transfer_table(report),
        _recall_table(report),
        _peer_table(report),
        _resolution_table(report),
        _condition_table(report),
    ]
    return "\n\n".join(part for part in parts if part)


def _probe_table(report: Row) -> str:
    rows = _probe_rows(report)
    if not rows:
        return "The linear probe was not measured."
    with_duplicates = {(row["train"], row["test"]): row for row in _probe_rows(report, near_duplicates="in")}
    intro = (
        "### Linear probe\n\nL2 logistic regression on frozen, standardised embeddings; C is chosen on a part of "
        "train, then it is trained on all of train and evaluated once on the test split. Near-duplicates of test "
        "images are left out of train; in the last column they are not.\n\n"
    )
    header = (
        "trained on",
        "evaluated on",
        "images",
        "pretraining",
        "accuracy",
        "UAR",
        "macro-F1",
        "with near-duplicates: accuracy / UAR",
    )
    body = [
        (
            f"{title_of(row['train'])} train",
            f"{title_of(row['test'])} test",
            f"{row['n']:,}",
            row["status"],
            *(_with_interval(row, metric) for metric in ("accuracy", "uar", "macro_f1")),
            _accuracy_and_uar(with_duplicates.get((row["train"], row["test"]))),
        )
        for row in rows
    ]
    return intro + _table(header, body)


def _transfer_table(report: Row) -> str:
    """Probes evaluated on another data set than they were trained on, and by folds of persons."""
    body = [
        (
            _part(report, row["train"], "train"),
            row["train_status"],
            f"{_part(report, row['test'], 'test')}, {len(row['shared'])} shared classes",
            *_figures(row),
        )
        for row in _own(report, "cross_dataset")
    ]
    body += [
        (
            f"{title_of(row['data'])}, other persons",
            row["status"],
            f"{title_of(row['data'])}, fold by fold",
            *_figures(row),
        )
        for row in _own(report, "subject_folds")
    ]
    header = ("trained on", "pretraining", "evaluated on", "pretraining", "images", "accuracy", "UAR")
    return "### Other data, other persons\n\n" + _table(header, body) if body else ""


def _figures(row: Row) -> tuple[str, ...]:
    return row["status"], f"{row['n']:,}", _with_interval(row, "accuracy"), _with_interval(row, "uar")


def _recall_table(report: Row) -> str:
    rows = _probe_rows(report)
    if not rows:
        return ""
    labels = dict.fromkeys(label for row in rows for label in row["recall"])
    header = ("class", *(_pair(row) for row in rows))
    body = [
        (label, *(f"{row['recall'][label]:.3f}" if label in row["recall"] else "-" for row in rows)) for label in labels
    ]
    return "### Recall of each class\n\nOf the linear probe above.\n\n" + _table(header, body)


def _peer_table(report: Row) -> str:
    rows = [row for row in report.get("linear_probe") or () if row["near_duplicates"] == "out"]
    others = {(row["train"], row["test"]) for row in rows if row["system"] != report["model"]["model_id"]}
    body = [
        (row["system"], _pair(row), _with_interval(row, "accuracy"), _with_interval(row, "uar"))
        for row in sorted(rows, key=lambda row: -row["accuracy"])
        if (row["train"], row["test"]) in others
    ]
    if not body:
        return ""
    intro = "### Beside other systems\n\nEmbeddings of other systems under the same linear probe.\n\n"
    return intro + _table(("system", "evaluated on", "accuracy", "UAR"), body)


def _resolution_table(report: Row) -> str:
    title = "### Resolution\n\n"
    rows = [row for row in _conditions(report) if row["group"] == _LOW_RESOLUTION]
    if not rows:
        return title + "Not measured."
    clean = report["robustness"]["clean"]
    intro = (
        f"{title_of(report['robustness']['data'])} test images reduced to so many pixels a side, evaluated with the "
        "probe that was trained on unchanged images.\n\n"
    )
    body = [(str(row["severity"]), f"{row['accuracy']:.3f}", f"{row['uar']:.3f}") for row in rows]
    unchanged = ("unchanged", f"{clean['accuracy']:.3f}", f"{clean['uar']:.3f}")
    return title + intro + _table(("resolution", "accuracy", "UAR"), [*body, unchanged])


def _condition_table(report: Row) -> str:
    """One row for each kind of change but resolution: the accuracy at each of its severities."""
    groups: dict[str, list[Row]] = {}
    for row in _conditions(report):
        if row["group"] != _LOW_RESOLUTION:
            groups.setdefault(row["group"], []).append(row)
    if not groups:
        return ""
    clean = report["robustness"]["clean"]["accuracy"]
    body = [
        (
            group,
            ", ".join(f"{row['severity']}: {row['accuracy']:.3f}{_missed(row)}" for row in rows),
            f"{100 * (clean - min(row['accuracy'] for row in rows)):.1f}",
        )
        for group, rows in groups.items()
    ]
    intro = f"### Other changes of the image\n\nAccuracy on unchanged images: {clean:.3f}."
    if any(row.get("missed") for rows in groups.values() for row in rows):
        intro += " Where a detector found no face, the unchanged crop was used."
    return intro + "\n\n" + _table(("change", "accuracy at each severity", "largest drop, points"), body)


def _missed(row: Row) -> str:
    return f" (no face found in {row['missed']:,})" if row.get("missed") else ""


def _limits(report: Row | None, notes: str | None) -> str:
    """What the report shows to be weak, then what was written down by hand."""
    lines = [
        f"- Probe trained on {title_of(row['train'])} train, evaluated on {title_of(row['test'])} test: the class with "
        f"the lowest recall is {min(row['recall'], key=row['recall'].get)} ({min(row['recall'].values()):.3f})."
        for row in _probe_rows(report)
    ]
    if report is not None and _conditions(report):
        clean = report["robustness"]["clean"]["accuracy"]
        worst = min(_conditions(report), key=lambda row: row["accuracy"])
        lines.append(
            f"- The change of the image that costs most is {worst['group']}, {worst['severity']}: accuracy "
            f"{worst['accuracy']:.3f} in place of {clean:.3f}."
        )
    lines.append("- Not measured: how well it works for people of different age, sex or skin colour.")
    written = (notes or "").strip() or "Beyond that, none has been written down for these weights."
    return "## Known failure modes\n\n" + "\n".join(lines) + "\n\n" + written


# Small things


def _probe_rows(report: Row | None, near_duplicates: str = "out") -> list[Row]:
    """The model's own rows of the linear probe."""
    if report is None:
        return []
    return [row for row in _own(report, "linear_probe") if row["near_duplicates"] == near_duplicates]


def _own(report: Row, section: str) -> list[Row]:
    own = report["model"]["model_id"]
    return [row for row in report.get(section) or () if row.get("system", own) == own]


def _conditions(report: Row) -> list[Row]:
    return list((report.get("robustness") or {}).get("conditions") or ())


def _dataset_of(entry: str) -> str:
    """ "rafdb (train)" -> "rafdb"."""
    return entry.partition(" (")[0].strip()


def _split(entry: str) -> str:
    """ "rafdb (train)" -> "(train)"."""
    return entry.partition(" ")[2]


def title_of(entry: str) -> str:
    """ "rafdb" or "rafdb (train)" -> "RAF-DB", as its authors write it; a name that is not known stays as it is."""
    name = _dataset_of(entry)
    return TERMS[name].title if name in TERMS else name


def _known(config: EncoderConfig) -> bool:
    return any(_dataset_of(entry) in TERMS for entry in config.training_data)


def _part(report: Row, name: str, split: str) -> str:
    """A data set and what of it is meant; one without splits is taken whole."""
    return f"{title_of(name)} {split}" if split in report["data"][name]["splits"] else f"{title_of(name)}, whole"


def _pair(row: Row) -> str:
    train, test = title_of(row["train"]), title_of(row["test"])
    return test if train == test else f"{train} -> {test}"


def _with_interval(row: Row, metric: str) -> str:
    low, high = row["intervals"][metric]
    return f"{row[metric]:.3f} ({low:.3f}-{high:.3f})"


def _accuracy_and_uar(row: Row | None) -> str:
    return f"{row['accuracy']:.3f} / {row['uar']:.3f}" if row else "-"


def _table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    rows = (header, ["---"] * len(header), *body)
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
