"""Photos -> faces with their expressions: an extractor, and a head on its embeddings."""

from __future__ import annotations

import functools
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fergeneral import hub
from fergeneral.encoder import EncoderConfig
from fergeneral.errors import ImageError, ModelError
from fergeneral.extractor import ExpressionExtractor, shared_extractor
from fergeneral.heads.head import Head
from fergeneral.types import ClassifiedFace, ClassifiedTrackedFace, Detector, Face, TrackedFace, VideoFrame

if TYPE_CHECKING:
    from fergeneral.heads.fit import FitReport

UNCERTAIN = "uncertain"

_loading = threading.Lock()


class ExpressionClassifier:
    """Photos -> faces with their expressions, by a detector, a frozen encoder and a head.

    Safe between threads, and between processes as `ExpressionExtractor` is.

    Parameters
    ----------
    extractor : ExpressionExtractor
        Detector and encoder.
    head : Head
        Fitted on embeddings of that encoder.
    min_confidence : float, default 0.0
        Below this probability of the most probable class a face's `expression` is "uncertain"; 0..1.

    Attributes
    ----------
    report : FitReport or None
        Of `fit`: cross-validated quality, and photos that gave no face. None where the head was loaded.

    Raises
    ------
    ModelError
        For a head of another encoder.
    ValueError
        For a `min_confidence` outside 0..1.

    Examples
    --------
    >>> from fergeneral import ExpressionClassifier
    >>> classifier = ExpressionClassifier.from_pretrained(device="cpu")
    >>> classifier.classes
    ('neutral', 'happiness', 'surprise', 'sadness', 'anger', 'disgust', 'fear', 'contempt')
    >>> [face.expression for face in classifier.predict("examples/photos/three_faces.jpg")]
    ['happiness', 'happiness', 'happiness']
    """

    def __init__(self, extractor: ExpressionExtractor, head: Head, *, min_confidence: float = 0.0) -> None:
        head.check_encoder(extractor.encoder)
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"min_confidence must be a probability, 0..1, got {min_confidence!r}")
        self.extractor = extractor
        self.head = head
        self.min_confidence = float(min_confidence)
        self.report: FitReport | None = None

    @classmethod
    def from_pretrained(
        cls,
        head: str | Path | Head | None = None,
        *,
        encoder: str | Path | ExpressionExtractor | None = None,
        revision: str | None = None,
        device: str | None = None,
        detector: Detector | str | None = None,
        min_face_size: int | None = None,
        min_confidence: float = 0.0,
        local_files_only: bool = False,
    ) -> ExpressionClassifier:
        """Load a head, and the encoder that it belongs to.

        Parameters
        ----------
        head : str, path, Head or None, default None
            A name of `list_heads()`; a folder of head.safetensors and head.json, as `save_pretrained` writes it; the id
            of such a repository on the Hugging Face Hub, "owner/name"; or a `Head`. None: the packaged head
            "expressions-8" (neutral, happiness, surprise, sadness, anger, disgust, fear, contempt).
        encoder : str, path, ExpressionExtractor or None, default None
            As `ExpressionExtractor.from_pretrained`'s `name_or_path`, or an extractor that is loaded already. None: the
            packaged encoder that the head names; for a packaged head, the default.
        revision : str or None, default None
            Commit, tag or branch, where `head` is a Hub repository.
        device : str or None, default None
            "cpu", "cuda", "cuda:N" or "mps"; None takes CUDA, then MPS, then the CPU.
        detector : Detector, str or None, default None
            As for `ExpressionExtractor.from_pretrained`.
        min_face_size : int or None, default None
            As there, in pixels.
        min_confidence : float, default 0.0
            Below this probability of the most probable class a face's `expression` is "uncertain"; 0..1.
        local_files_only : bool, default False
            Use what has been downloaded before and nothing else.

        Returns
        -------
        ExpressionClassifier

        Raises
        ------
        ModelError
            For a head or an encoder that is not there or corrupt, and for a head of another encoder.
        ValueError
            For `device`, `detector` or `min_face_size` beside an extractor, which has its own; for a `min_confidence`
            outside 0..1.

        Examples
        --------
        >>> from fergeneral import ExpressionClassifier
        >>> classifier = ExpressionClassifier.from_pretrained(device="cpu")
        >>> [face.expression for face in classifier.predict("examples/photos/astronaut.png")]
        ['happiness']
        """
        loaded = None
        if encoder is not None:
            loaded = _extractor(encoder, device, detector, min_face_size, local_files_only)
        if not isinstance(head, Head):
            of = None if loaded is None else loaded.encoder
            head = Head.from_pretrained(head, encoder=of, revision=revision, local_files_only=local_files_only)
        if loaded is None:
            loaded = _extractor(_encoder_of(head), device, detector, min_face_size, local_files_only)
        return cls(loaded, head, min_confidence=min_confidence)

    @classmethod
    def fit(
        cls,
        data: Any,
        labels: Sequence[Any] | None = None,
        *,
        groups: Sequence[Any] | None = None,
        encoder: str | Path | ExpressionExtractor | None = None,
        method: str = "auto",
        aligned: bool = False,
        name: str = "custom",
        license: str = "",
        device: str | None = None,
        detector: Detector | str | None = None,
        min_face_size: int | None = None,
        min_confidence: float = 0.0,
        local_files_only: bool = False,
        show_progress: bool | None = None,
        seed: int = 0,
    ) -> ExpressionClassifier:
        """Learn expressions of your own from labelled photos, from one of each up. Needs the extra `eval`.

        Photos without a face, and images that cannot be read, are left out, and named in `report`. The same data and
        seed give the same head.

        Parameters
        ----------
        data : path or many images
            A folder LABEL/PHOTO; a manifest (.csv) with the columns path and label and, if wanted, subject, the person;
            a folder with a manifest.csv; or images, as for `ExpressionExtractor.extract_many`, with `labels`. Where a
            folder or manifest has splits, its train split. Labels are taken as they are: "happy" stays "happy".
        labels : sequence of length N or None, default None
            The class of each image, where `data` is a list; taken as str. "uncertain" is refused.
        groups : sequence of length N or None, default None
            The person on each image, where `data` is a list. Where people are known, each fold of the
            cross-validation holds out whole people.
        encoder : str, path, ExpressionExtractor or None, default None
            As for `from_pretrained`; None: the default weights.
        method : {"auto", "logistic", "mean"}, default "auto"
            As for `fergeneral.heads.fit_head`: logistic regression where every class has ten faces or more, else the
            nearest mean.
        aligned : bool, default False
            The images already are face crops and go to the encoder as they are. Of a photo, the largest face counts.
        name : str, default "custom"
            What the head is called.
        license : str, default ""
            Terms of use, for its card.
        device, detector, min_face_size, min_confidence, local_files_only
            As for `from_pretrained`.
        show_progress : bool or None, default None
            A progress bar on stderr; None shows one on a terminal.
        seed : int, default 0
            Of the folds.

        Returns
        -------
        ExpressionClassifier
            With `report`, a FitReport: cross-validated accuracy, UAR and recalls, and what was left out.

        Raises
        ------
        DataError
            For fewer than two classes, a class without a face, other numbers of images and labels, a picture in two
            classes, and a folder or manifest that is not there or broken.
        TypeError
            For one image, or images without labels.
        ValueError
            For another `method`; for `device`, `detector` or `min_face_size` beside an extractor.
        MissingExtraError
            Without scikit-learn.

        Warns
        -----
        UserWarning
            Once for images that are left out; for crops that look like photos; and as `fergeneral.heads.fit_head`.

        Examples
        --------
        >>> from fergeneral import ExpressionClassifier
        >>> classifier = ExpressionClassifier.fit("examples/london", device="cpu")
        >>> classifier.classes, round(classifier.report.accuracy, 2)
        (('neutral', 'smiling'), 0.83)
        """
        from fergeneral.heads import fit as fitting  # says which extra is missing
        from fergeneral.heads.examples import embed_examples, read_examples

        examples = read_examples(data, labels, groups)
        extractor = _extractor(encoder, device, detector, min_face_size, local_files_only)
        embedded = embed_examples(extractor, examples, aligned=aligned, show_progress=show_progress, stacklevel=2)
        head, report, messages = fitting.fit_on_examples(
            examples, embedded, extractor.encoder, method=method, name=name, license=license, seed=seed
        )
        for message in messages:
            warnings.warn(message, UserWarning, stacklevel=2)
        classifier = cls(extractor, head, min_confidence=min_confidence)
        classifier.report = report
        return classifier

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the K expressions that the head tells apart."""
        return self.head.classes

    @property
    def config(self) -> EncoderConfig:
        """What the encoder's weights say of themselves."""
        return self.extractor.config

    def predict(self, image: Any) -> list[ClassifiedFace]:
        """Find every face in a photo, and name its expression.

        Parameters
        ----------
        image : image
            Anything `load_image` takes.

        Returns
        -------
        list of ClassifiedFace
            Largest face first; [] where there is none.

        Raises
        ------
        ImageError
            For an image that cannot be read.

        Warns
        -----
        UserWarning
            As `ExpressionExtractor.extract`.
        """
        return self.classify_faces(self.extractor.extract(image))

    def predict_many(
        self,
        images: Iterable[Any],
        *,
        batch_size: int = 32,
        on_error: Callable[[int, ImageError], None] | None = None,
    ) -> Iterator[list[ClassifiedFace]]:
        """`predict` for any number of photos: one list per photo, in their order, computed as they are asked for.

        Parameters
        ----------
        images : iterable
            As for `ExpressionExtractor.extract_many`.
        batch_size : int, default 32
            How many photos, or about how many faces, are encoded together.
        on_error : callable or None, default None
            `on_error(position, error)` is called for a photo that cannot be read, which then gives []; without it the
            error is raised, after the results of all photos before it.

        Returns
        -------
        iterator of list of ClassifiedFace

        Raises
        ------
        TypeError, ImageError
            As `ExpressionExtractor.extract_many`.

        Examples
        --------
        >>> from fergeneral import ExpressionClassifier
        >>> classifier = ExpressionClassifier.from_pretrained(device="cpu")
        >>> photos = ["examples/photos/astronaut.png", "examples/photos/coffee.png"]
        >>> [[face.expression for face in faces] for faces in classifier.predict_many(photos)]
        [['happiness'], []]
        """
        found = self.extractor.extract_many(images, batch_size=batch_size, on_error=on_error)
        return self._classify_each(found)

    def _classify_each(self, found: Iterator[list[Face]]) -> Iterator[list[ClassifiedFace]]:
        with closing(found):  # type: ignore[type-var]  # a generator: its threads end here
            for faces in found:
                yield self.classify_faces(faces)

    def predict_video(
        self,
        path: str | os.PathLike[str],
        *,
        fps: float | None = None,
        batch_size: int = 32,
        on_error: Callable[[float, ImageError], None] | None = None,
    ) -> Iterator[VideoFrame]:
        """`predict` for the frames of a video file: (time, faces) of each, in their order, as they are asked for.

        Each frame's expressions are its own: nothing is smoothed over time.

        Parameters
        ----------
        path : path
            Of a video file.
        fps : float or None, default None
            About so many frames of each second; None: every frame.
        batch_size : int, default 32
            How many frames, or about how many faces, are encoded together.
        on_error : callable or None, default None
            `on_error(time, error)` is called for a frame that is corrupt, which is then left out.

        Returns
        -------
        iterator of VideoFrame
            Their faces are ClassifiedTrackedFace.

        Raises
        ------
        ImageError, MissingExtraError, ValueError
            As `ExpressionExtractor.extract_video`.

        Examples
        --------
        >>> from fergeneral import ExpressionClassifier
        >>> classifier = ExpressionClassifier.from_pretrained(device="cpu")
        >>> for time, faces in classifier.predict_video("clip.mp4", fps=2):
        ...     print(time, [face.expression for face in faces])
        0.0 ['happiness']
        0.5 ['happiness']
        """
        frames = self.extractor.extract_video(path, fps=fps, batch_size=batch_size, on_error=on_error)
        return (VideoFrame(time, self.classify_faces(faces)) for time, faces in frames)  # type: ignore[arg-type]

    def predict_crops(self, crops: Any, *, batch_size: int = 64, show_progress: bool | None = None) -> np.ndarray:
        """Probabilities for images that already are face crops, without detection.

        Parameters
        ----------
        crops : iterable
            As for `ExpressionExtractor.encode`.
        batch_size : int, default 64
            How many go through the network at once.
        show_progress : bool or None, default None
            A progress bar on stderr; None shows one for more than one batch on a terminal.

        Returns
        -------
        ndarray, shape (N, K), float32
            Columns as `classes`, each row of sum 1.

        Raises
        ------
        TypeError, ImageError
            As `ExpressionExtractor.encode`.

        Warns
        -----
        UserWarning
            Where the images seem to be whole photos.

        Examples
        --------
        >>> from fergeneral import ExpressionClassifier
        >>> classifier = ExpressionClassifier.from_pretrained(device="cpu")
        >>> photo = "examples/photos/three_faces.jpg"
        >>> extractor = classifier.extractor
        >>> crops = [extractor.align(photo, face.landmarks) for face in extractor.extract(photo)]
        >>> classifier.predict_crops(crops).shape
        (3, 8)
        """
        embeddings = self.extractor.encode(crops, batch_size=batch_size, show_progress=show_progress)
        return self.head.predict_proba(embeddings)

    def classify_faces(self, faces: Sequence[Face]) -> list[ClassifiedFace]:
        """The same faces with their expressions; those of a video (TrackedFace) as ClassifiedTrackedFace.

        Parameters
        ----------
        faces : sequence of Face
            Of this classifier's extractor.

        Returns
        -------
        list of ClassifiedFace
            In the order of `faces`.
        """
        if not faces:
            return []
        rows = self.head.predict_proba(np.stack([face.embedding for face in faces]))
        return [self._classified(face, row) for face, row in zip(faces, rows.tolist(), strict=True)]

    def _classified(self, face: Face, row: list[float]) -> ClassifiedFace:
        confidence = max(row)
        label = self.classes[row.index(confidence)] if confidence >= self.min_confidence else UNCERTAIN
        tracked = isinstance(face, TrackedFace)
        return (ClassifiedTrackedFace if tracked else ClassifiedFace)(
            **vars(face),
            expression=label,
            confidence=confidence,
            probabilities=dict(zip(self.classes, row, strict=True)),
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the head, which `from_pretrained(folder)` reads; not the encoder, which is found by its name.

        Parameters
        ----------
        folder : path
            Made if need be.
        """
        self.head.save_pretrained(folder)

    def push_to_hub(self, repo: str) -> str:
        """Upload the head and its card to a Hugging Face Hub repository: see `Head.push_to_hub`.

        Parameters
        ----------
        repo : str
            "owner/name".

        Returns
        -------
        str
            The address of the commit.
        """
        return self.head.push_to_hub(repo)


def load_model(
    model: str | Path | None,
    head: str | Path | None,
    *,
    revision: str | None,
    device: str | None,
    detector: str | None,
    min_face_size: int | None,
    min_confidence: float = 0.0,
) -> ExpressionExtractor | ExpressionClassifier:
    """What a command or a job names: an encoder with a head, or without.

    `revision`: of `model`, or where there is only a head, of that.
    """
    if model is None and head is not None:
        return ExpressionClassifier.from_pretrained(
            head,
            revision=revision,
            device=device,
            detector=detector,
            min_face_size=min_face_size,
            min_confidence=min_confidence,
        )
    extractor = ExpressionExtractor.from_pretrained(
        model, revision=revision, device=device, detector=detector, min_face_size=min_face_size
    )
    if head is None:
        return extractor
    return ExpressionClassifier.from_pretrained(head, encoder=extractor, min_confidence=min_confidence)


def _extractor(
    encoder: str | Path | ExpressionExtractor | None,
    device: str | None,
    detector: Detector | str | None,
    min_face_size: int | None,
    local_files_only: bool,
) -> ExpressionExtractor:
    """Loaded, or as it is given, then without options."""
    if isinstance(encoder, ExpressionExtractor):
        if device is not None or detector is not None or min_face_size is not None:
            raise ValueError("device, detector and min_face_size are for an encoder that is loaded here")
        return encoder
    return ExpressionExtractor.from_pretrained(
        encoder, device=device, detector=detector, min_face_size=min_face_size, local_files_only=local_files_only
    )


def _encoder_of(head: Head) -> str:
    """The name of the packaged encoder that a head belongs to."""
    wanted = head.config
    for config in hub.packaged_models():
        if config.weights_sha256 == wanted.encoder_sha256:
            return config.model_id
    raise ModelError(
        f"the head {head.name!r} belongs to the encoder {wanted.encoder_id!r} (SHA-256 {wanted.encoder_sha256}), which "
        f"is not among the packaged weights {hub.list_models()}: name its folder or Hub repository as the encoder"
    )


@functools.cache
def _shared() -> ExpressionClassifier:
    """The packaged head on the extractor that `extract` uses, so that weights are loaded once."""
    return ExpressionClassifier.from_pretrained(encoder=shared_extractor())


def classify(image: Any) -> list[ClassifiedFace]:
    """Find every face in a photo and name its expression, with the packaged weights on the best device there is.

    Parameters
    ----------
    image : image
        Anything `load_image` takes.

    Returns
    -------
    list of ClassifiedFace
        Largest face first; [] where there is none. Weights and head are loaded at the first call.

    Raises
    ------
    ImageError
        For an image that cannot be read.

    Examples
    --------
    >>> from fergeneral import classify
    >>> face = classify("examples/photos/astronaut.png")[0]
    >>> face.expression
    'happiness'
    """
    with _loading:
        classifier = _shared()
    return classifier.predict(image)
