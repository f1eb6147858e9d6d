"""The terms and the provenance of weights: what one may do with an encoder or a head, and what it was made of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from fergeneral import hub
from fergeneral.card import INT8_SUFFIX, TERMS, check_training, reading, title_of
from fergeneral.encoder import EncoderConfig
from fergeneral.errors import ModelError
from fergeneral.heads.head import HEAD_FILE, HeadConfig, find_head_config, list_heads

RESEARCH_ONLY_MEANING = (
    "Use it in non-commercial research and publish what you find; do not sell it or use it in a product or a service: "
    "the owners of its training images allow research alone, and the MIT licence of the code does not cover it."
)
_NO_LICENCE = "No licence was stated: ask whoever made it before you use it."
_OTHER_LICENCE = "The licence is as its maker states it; fergeneral adds nothing to it."
_PROVENANCE_FILE = "provenance.json"  # beside the packaged weights, written by scripts/list_hashes.py
_RUN_FIELDS = ("command", "minutes", "device", "torch", "date", "steps", "images_drawn", "started_from", "history")
DETECTOR_TERMS = {
    "mtcnn": "MIT: from facenet-pytorch, which ported them from facenet (MIT); docs/terms.md has their origin",
    "yunet": "MIT: face_detection_yunet_2023mar.onnx of the OpenCV Zoo, part of this package",
}


@dataclasses.dataclass(frozen=True)
class DataTerms:
    """A data set that weights were made of.

    Attributes
    ----------
    name : str
        As the weights name it, with the part that was used: "rafdb (train)".
    title : str
        As its authors write it; `name` where fergeneral does not know the data set.
    images : int or None
        How many images were used; None where no record says so.
    list_sha256 : str or None
        `fergeneral.datasets.list_sha256` of these images; None where it is not known.
    near_duplicates_left_out : dict of str to int
        How many train images were left out, by reason, such as "near copy in another split" (of a test image).
    source : str
        Where it comes from; "" where fergeneral does not know.
    terms : str
        What its owners allow; "" where fergeneral does not know.

    Examples
    --------
    >>> from fergeneral.terms import terms_of
    >>> [(data.title, data.images) for data in terms_of("crs-cont-cpu").data]
    [('RAF-DB', 12246), ('AffectNet-part', 28927)]
    """

    name: str
    title: str
    images: int | None
    list_sha256: str | None
    near_duplicates_left_out: Mapping[str, int]
    source: str
    terms: str


@dataclasses.dataclass(frozen=True)
class Terms:
    """The terms and the provenance of an encoder or a head; `str` gives them as text to read.

    Attributes
    ----------
    name : str
        Of the encoder ("general-r18-cycle"), or encoder and head ("general-r18-cycle/expressions-8").
    kind : str
        "encoder" or "head".
    license : str
        As config.json or head.json states it; "" where neither does.
    meaning : str
        What that means for a user, in one sentence. Not legal advice: see docs/terms.md.
    weights_file : str
        Name of the file of weights.
    weights_sha256 : str
        Its SHA-256, hexadecimal, which loading verifies.
    data : tuple of DataTerms
        What it was trained on.
    lists : str
        Where the counts and hashes of `data` come from.
    method : str
        Of an encoder, the recipe's name; of a head, how it was fitted; "" where that is not known.
    run : dict
        Of an encoder, what its training.json says of the run (command, date, minutes, device, PyTorch, ...); {} where
        there is none, and of a head.
    made_from : str or None
        Of int8-quantized weights, those they were made of; of a head, its encoder, whose terms hold as well.
    detectors : dict of str to str
        The licence of each detector's weights.

    Examples
    --------
    >>> from fergeneral.terms import terms_of
    >>> terms = terms_of()
    >>> terms.name, terms.license
    ('general-r18-cycle', 'research only, non-commercial: see the model card')
    """

    name: str
    kind: str
    license: str
    meaning: str
    weights_file: str
    weights_sha256: str
    data: tuple[DataTerms, ...]
    lists: str
    method: str
    run: Mapping[str, Any]
    made_from: str | None
    detectors: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def terms_of(name_or_path: str | Path | None = None) -> Terms:
    """The terms and the provenance of an encoder or a head. Nothing is loaded but its JSON files.

    Parameters
    ----------
    name_or_path : str, path or None, default None
        A packaged encoder, one of `list_models()`; a packaged head of the default encoder ("expressions-8"), or of
        another one ("general-r18-cycle-int8/expressions-8"); or the folder of either. None: the default encoder.

    Returns
    -------
    Terms

    Raises
    ------
    ModelError
        For a name or folder that holds neither, and for a file in it that is not what it should be.
    DataError
        For a training.json that is of other weights, not valid JSON, or has a field of the wrong kind.

    Examples
    --------
    >>> from fergeneral.terms import terms_of
    >>> terms_of("expressions-8").license
    'research only, non-commercial: see the model card of the encoder'
    """
    head = None if name_or_path is None else find_head_config(name_or_path)
    if head is not None:
        return _of_head(head)
    config = hub.find_config(name_or_path)
    if config is None:
        known = [*hub.list_models(), *list_heads()]
        raise ModelError(
            f"{str(name_or_path)!r} is neither a packaged encoder or head ({', '.join(known)}) nor a folder; of a Hub "
            "repository, give the folder that it was downloaded to"
        )
    return _of_encoder(config, hub.training_record(config.model_id if name_or_path is None else name_or_path))


def _of_encoder(config: EncoderConfig, training: Mapping[str, Any] | None) -> Terms:
    provenance = _provenance(config.weights_sha256)
    made_from = provenance.get("quantized_from")
    with reading("the training record"):
        check_training(config, training)
        if training is None and made_from:
            training = hub.training_record(made_from)
        terms = _of_run(config, training or {}, provenance)
        str(terms)  # so that a field of another kind is found here
    return terms


def _of_run(config: EncoderConfig, record: Mapping[str, Any], provenance: Mapping[str, Any]) -> Terms:
    return Terms(
        name=config.model_id,
        kind="encoder",
        license=config.license,
        meaning=_meaning(config.license),
        weights_file=hub.INT8_FILE if config.model_id.endswith(INT8_SUFFIX) else hub.WEIGHTS_FILE,
        weights_sha256=config.weights_sha256,
        data=tuple(_data(config.training_data, record, provenance)),
        lists=_where_from(record, provenance),
        method=str(record.get("recipe", {}).get("name", "")),
        run={field: record[field] for field in _RUN_FIELDS if record.get(field) is not None},
        made_from=provenance.get("quantized_from"),
        detectors=DETECTOR_TERMS,
    )


def _of_head(config: HeadConfig) -> Terms:
    provenance = _provenance(config.weights_sha256)
    return Terms(
        name=f"{config.encoder_id}/{config.name}",
        kind="head",
        license=config.license,
        meaning=_meaning(config.license),
        weights_file=HEAD_FILE,
        weights_sha256=config.weights_sha256,
        data=tuple(_data(provenance.get("lists", config.training_data), {}, provenance)),
        lists=_where_from({}, provenance),
        method=config.method,
        run={},
        made_from=config.encoder_id,
        detectors=DETECTOR_TERMS,
    )


def _meaning(license: str) -> str:
    if license.lower().startswith(hub.RESEARCH_ONLY):
        return RESEARCH_ONLY_MEANING
    return _OTHER_LICENCE if license else _NO_LICENCE


def _data(entries: Any, record: Mapping[str, Any], provenance: Mapping[str, Any]) -> Iterator[DataTerms]:
    """Of each entry such as "rafdb (train)"; what a run recorded goes before what was recomputed later."""
    for entry in entries:
        dataset = entry.partition(" (")[0]
        row = provenance.get("rows", {}).get(entry, {})
        known = TERMS.get(dataset)
        yield DataTerms(
            name=entry,
            title=title_of(entry) if known else entry,
            images=record.get("images", {}).get(dataset, row.get("images")),
            list_sha256=record.get("list_sha256", {}).get(dataset, row.get("sha256")),
            near_duplicates_left_out=row.get("near_duplicates_left_out", {}),
            source=known.source if known else "",
            terms=known.terms if known else "",
        )


def _where_from(record: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    if record.get("list_sha256"):
        return "recorded by the training run"
    if provenance:
        agree = "agree with" if provenance["counts_match"] else "DIFFER from"
        return f"recomputed from the data sets on {provenance['recomputed']}; the counts {agree} the record"
    return "counts recorded by the training run, hashes not known" if record.get("images") else "not recorded"


def _provenance(sha256: str) -> dict[str, Any]:
    """The row of provenance.json for a file of weights, with the lists that it names; {} where there is none."""
    stored = _stored_provenance()
    for row in stored.get("weights", ()):
        if row["weights_sha256"] == sha256:
            return {**row, "rows": stored["lists"], "recomputed": stored["recomputed"]}
    return {}


@lru_cache
def _stored_provenance() -> dict[str, Any]:
    folder = hub.weights_folder()
    path = None if folder is None else folder / _PROVENANCE_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}


def _lines(terms: Terms) -> Iterator[str]:
    """One fact a line, the names of facts in a column, as `fergeneral info` prints them."""
    yield from (_row(terms.kind, terms.name), _row("licence", terms.license or "not stated"))
    yield from (
        _row("meaning", terms.meaning),
        _row("weights", f"{terms.weights_file}, SHA-256 {terms.weights_sha256}"),
    )
    if terms.made_from:
        yield _row("made from", f"{terms.made_from}; its terms: fergeneral info --terms {terms.made_from}")
    yield _row("method", terms.method or "not recorded")
    for field, value in terms.run.items():
        if field != "history":
            yield _row(field.replace("_", " "), value)
    for row in terms.run.get("history", ()):
        yield _row("run before", f"{row['name']}, {row['date']}, SHA-256 {row.get('weights_sha256') or 'not recorded'}")
    yield _row("trained on", terms.lists if terms.data else "not stated")
    for data in terms.data:
        count = "" if data.images is None else f", {data.images:,} images"
        yield f"- {data.title}: {data.name}{count}"
        yield f"  list SHA-256: {data.list_sha256 or 'not known'}"
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in data.near_duplicates_left_out.items())
        if left_out:
            yield f"  left out of it: {left_out}"
        yield f"  terms: {data.terms or 'not known to fergeneral'}"
        yield f"  source: {data.source or 'not known to fergeneral'}"
    for name, license in terms.detectors.items():
        yield _row(f"detector {name}", license)


def _row(name: str, value: object) -> str:
    return f"{name:<18} {value}"
