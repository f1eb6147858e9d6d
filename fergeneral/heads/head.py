"""A head: standardisation, a linear layer and a temperature, which turn embeddings into probabilities of classes.

On disk it is `head.safetensors` (mean, scale, weight, bias; float32) and `head.json` (`HeadConfig`): data, never code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import reprlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from fergeneral import hub
from fergeneral.encoder import Encoder, EncoderConfig, weights_sha256
from fergeneral.errors import DataError, MissingExtraError, ModelError
from fergeneral.storage import read_weights, whole_file

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

DEFAULT_HEAD = "expressions-8"
HEAD_FILE = "head.safetensors"
HEAD_CONFIG_FILE = "head.json"
FORMAT_VERSION = 1
MOST_CLASSES = 10_000
_HEADS_FOLDER = "heads"  # below the packaged weights: heads/ENCODER/HEAD
_MOST_CONFIG_BYTES = 2**22  # of 10,000 classes with long names
_MOST_HEAD_BYTES = 2**30
_LARGEST = 1e30  # of a folded weight: products with embeddings stay finite in float32
_LONGEST_NAME = 200  # characters of a class's name
_LONGEST_LINE = 1000  # characters of any other string


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """Everything about a head that is not a number in it; `head.json` holds exactly these fields.

    Attributes
    ----------
    name : str
        What the head is called.
    classes : tuple of str
        The names of its K classes, two or more, in the order of its outputs.
    encoder_id : str
        `model_id` of the encoder whose embeddings it was fitted on.
    encoder_sha256 : str
        SHA-256 of that encoder's weights, hexadecimal. Embeddings of other weights mean something else.
    embedding_size : int
        D, of that encoder.
    temperature : float
        The logits are divided by it before the softmax (Guo et al., ICML 2017); 1 changes nothing.
    method : str
        How the linear layer was fitted.
    training_data : tuple of str
        What it was fitted on.
    license : str
        Terms of use.
    quality : dict
        Measured quality, as JSON: figures by data set or protocol.
    weights_sha256 : str
        SHA-256 of the bytes of head.safetensors, hexadecimal.
    format_version : int
        Of these two files.

    Examples
    --------
    >>> from fergeneral import Head
    >>> config = Head.from_pretrained("expressions-7").config
    >>> config.encoder_id, config.embedding_size
    ('general-r18-cycle', 512)
    >>> round(config.quality["rafdb"]["accuracy"], 2)
    0.83
    """

    name: str
    classes: tuple[str, ...]
    encoder_id: str
    encoder_sha256: str
    embedding_size: int
    temperature: float = 1.0
    method: str = ""
    training_data: tuple[str, ...] = ()
    license: str = ""
    quality: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights_sha256: str = ""
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """The text of head.json."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> HeadConfig:
        """Parse and check a head.json.

        Parameters
        ----------
        text : str
            JSON.

        Returns
        -------
        HeadConfig

        Raises
        ------
        ModelError
            That names the field at fault; for a format newer than this package knows.
        """
        try:
            values = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{HEAD_CONFIG_FILE} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise ModelError(f"{HEAD_CONFIG_FILE} does not hold an object")
        version = values.get("format_version")
        if type(version) is int and version > FORMAT_VERSION:
            raise ModelError(
                f"{HEAD_CONFIG_FILE} has format_version {version}, this package reads {FORMAT_VERSION}; run: pip "
                f"install --upgrade fergeneral"
            )
        fields = {field.name for field in dataclasses.fields(cls)}
        missing, unknown = sorted(fields - set(values)), sorted(set(values) - fields)
        if missing or unknown:
            raise ModelError(
                f"{HEAD_CONFIG_FILE} lacks the fields {missing}, or has unknown ones: {reprlib.repr(unknown)}"
            )
        for name in ("classes", "training_data"):
            values[name] = tuple(values[name]) if isinstance(values[name], list) else values[name]
        config = cls(**values)
        config.check()
        return config

    def check(self) -> None:
        """Raise ModelError that names a field with an impossible value."""

        def fail(field: str, wanted: str) -> None:
            raise ModelError(f"{HEAD_CONFIG_FILE}: {field} is {reprlib.repr(getattr(self, field))}, wanted {wanted}")

        for field in ("name", "encoder_id", "encoder_sha256", "method", "license", "weights_sha256"):
            if not _is_line(getattr(self, field), _LONGEST_LINE):
                fail(field, f"a string of at most {_LONGEST_LINE} printable characters")
        for field in ("name", "encoder_id", "encoder_sha256"):
            if not getattr(self, field):
                fail(field, "a string that is not empty")
        if not (isinstance(self.classes, tuple) and 2 <= len(self.classes) <= MOST_CLASSES):
            fail("classes", f"2 to {MOST_CLASSES} names")
        if not all(_is_line(name, _LONGEST_NAME) and name for name in self.classes):
            fail("classes", f"names of 1 to {_LONGEST_NAME} printable characters")
        if len(set(self.classes)) < len(self.classes):
            fail("classes", "names that differ")
        if not (isinstance(self.training_data, tuple) and all(_is_line(x, _LONGEST_LINE) for x in self.training_data)):
            fail("training_data", f"a list of strings of at most {_LONGEST_LINE} printable characters")
        if type(self.embedding_size) is not int or not 1 <= self.embedding_size <= 65536:
            fail("embedding_size", "an integer, 1..65536")
        temperature = self.temperature
        if type(temperature) not in (int, float) or not 0 < temperature < math.inf:
            fail("temperature", "a number above 0")
        if not isinstance(self.quality, Mapping):
            fail("quality", "an object")
        if self.format_version != FORMAT_VERSION or type(self.format_version) is not int:
            fail("format_version", str(FORMAT_VERSION))


class Head:
    """A classifier on the embeddings of one frozen encoder: probabilities of K classes.

    ``softmax(((embedding - mean) / scale @ weight.T + bias) / temperature)``. It is immutable, and safe between
    threads. `ExpressionClassifier` puts it behind an encoder and a detector.

    Parameters
    ----------
    config : HeadConfig
        Class names, temperature, and the encoder that it belongs to.
    mean, scale : array_like, shape (D,)
        Of the standardisation. `scale` must be positive.
    weight : array_like, shape (K, D)
        Of the linear layer, on standardised embeddings.
    bias : array_like, shape (K,)
        Of the linear layer.

    Raises
    ------
    ModelError
        For arrays of other shapes, or with values that are not finite.

    Examples
    --------
    >>> from fergeneral import Head, extract
    >>> head = Head.from_pretrained("expressions-7")
    >>> head.predict([extract("examples/photos/astronaut.png")[0].embedding])
    array(['happiness'], dtype=object)
    """

    def __init__(self, config: HeadConfig, mean: Any, scale: Any, weight: Any, bias: Any) -> None:
        config.check()
        classes, size = len(config.classes), config.embedding_size
        shapes = {"mean": (size,), "scale": (size,), "weight": (classes, size), "bias": (classes,)}
        arrays: dict[str, np.ndarray] = {}
        for (name, shape), given in zip(shapes.items(), (mean, scale, weight, bias), strict=True):
            array = np.array(given, dtype=np.float32, order="C")  # a copy; safetensors takes no other order
            if array.shape != shape:
                raise ModelError(f"the head {config.name!r}: {name} has the shape {array.shape}, wanted {shape}")
            if not np.isfinite(array).all():
                raise ModelError(f"the head {config.name!r}: {name} holds values that are not finite")
            array.flags.writeable = False
            arrays[name] = array
        if not (arrays["scale"] > 0).all():
            raise ModelError(f"the head {config.name!r}: scale must be positive")
        self.config = config
        self._arrays = arrays
        # Standardisation and temperature folded into one linear layer, in float64 for the sake of the bias.
        scaled = arrays["weight"].astype(np.float64) / arrays["scale"]
        shifted = arrays["bias"] - scaled @ arrays["mean"].astype(np.float64)
        layer, offset = scaled.T / config.temperature, shifted / config.temperature
        if not max(np.abs(layer).max(), np.abs(offset).max()) < _LARGEST:
            raise ModelError(f"the head {config.name!r}: its numbers are too large")
        self._layer, self._offset = layer.astype(np.float32), offset.astype(np.float32)

    def __repr__(self) -> str:
        """Name, classes and encoder."""
        return f"Head({self.config.name!r}, classes={list(self.classes)}, encoder={self.config.encoder_id!r})"

    @property
    def name(self) -> str:
        """What the head is called."""
        return self.config.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its K classes, in the order of the columns of `predict_proba`."""
        return self.config.classes

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """`mean`, `scale`, `weight` and `bias`, float32, read-only."""
        return dict(self._arrays)

    @property
    def sha256(self) -> str:
        """What tells this head from others: SHA-256 over its numbers, classes, temperature and encoder, hexadecimal."""
        described = [list(self.classes), self.config.temperature, self.config.encoder_sha256]
        return hashlib.sha256(json.dumps(described).encode() + save_arrays(self._arrays)).hexdigest()

    def logits(self, embeddings: Any) -> np.ndarray:
        """What the softmax takes, the temperature applied.

        Parameters
        ----------
        embeddings : array_like, shape (N, D)
            Of the encoder that this head belongs to, as `extract` or `encode` gives them; not normalised.

        Returns
        -------
        ndarray, shape (N, K), float32

        Raises
        ------
        ValueError
            For another shape.
        """
        rows = np.asarray(embeddings, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.config.embedding_size:
            raise ValueError(f"embeddings must be (N, {self.config.embedding_size}), got the shape {rows.shape}")
        logits: np.ndarray = rows @ self._layer + self._offset
        return logits

    def predict_proba(self, embeddings: Any) -> np.ndarray:
        """Probabilities of the classes.

        Parameters
        ----------
        embeddings : array_like, shape (N, D)
            As for `logits`. A row of NaN gives NaN.

        Returns
        -------
        ndarray, shape (N, K), float32
            In 0..1, each row of sum 1; columns as `classes`.

        Raises
        ------
        ValueError
            For another shape.

        Examples
        --------
        >>> from fergeneral import Head, extract
        >>> head = Head.from_pretrained()
        >>> faces = extract("examples/photos/three_faces.jpg")
        >>> head.predict_proba([face.embedding for face in faces]).shape
        (3, 8)
        """
        logits = self.logits(embeddings).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        probabilities: np.ndarray = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
        return probabilities

    def predict(self, embeddings: Any) -> np.ndarray:
        """The most probable class of each row.

        Parameters
        ----------
        embeddings : array_like, shape (N, D)
            As for `logits`; finite.

        Returns
        -------
        ndarray, shape (N,), object
            Of str.

        Raises
        ------
        ValueError
            For another shape, or values that are not finite.
        """
        logits = self.logits(embeddings)
        if not np.isfinite(logits).all():
            raise ValueError("embeddings hold values that are not finite, which have no class")
        predicted: np.ndarray = np.array(self.classes, dtype=object)[logits.argmax(axis=1)]
        return predicted

    def check_encoder(self, encoder: Encoder) -> None:
        """Raise ModelError unless the embeddings of `encoder` are those that this head was fitted on."""
        digest = weights_sha256(encoder)
        if digest != self.config.encoder_sha256:
            raise ModelError(
                f"the head {self.name!r} belongs to the encoder {self.config.encoder_id!r} (SHA-256 "
                f"{self.config.encoder_sha256}), and this is {encoder.config.model_id!r} (SHA-256 {digest}), whose "
                f"embeddings mean something else: load that encoder, or fit a head for this one"
            )

    # Files

    def save_pretrained(self, folder: str | Path) -> None:
        """Write head.safetensors, head.json and a card (README.md), which `from_pretrained(folder)` reads.

        Parameters
        ----------
        folder : path
            Made if need be. Each file is written whole or not at all.

        Raises
        ------
        OSError
            Where it cannot be written.
        """
        from fergeneral.heads.card import head_card

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        data = save_arrays(self._arrays)
        config = dataclasses.replace(self.config, weights_sha256=hashlib.sha256(data).hexdigest())
        with whole_file(target / HEAD_FILE, durable=True) as path:
            path.write_bytes(data)
        for name, text in ((HEAD_CONFIG_FILE, config.to_json()), (hub.CARD_FILE, head_card(config))):
            with whole_file(target / name, durable=True) as path:
                path.write_text(text, encoding="utf-8")

    def push_to_hub(self, repo: str) -> str:
        """Upload the head and its card to a Hugging Face Hub repository, made if need be.

        Parameters
        ----------
        repo : str
            "owner/name". A card that is there is replaced.

        Returns
        -------
        str
            The address of the commit.

        Raises
        ------
        ModelError
            Where the Hub refuses it or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.upload_folder(repo, folder, f"Upload the head {self.name}")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        encoder: Encoder | EncoderConfig | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> Head:
        """Load a head: packaged, from a folder, or from the Hugging Face Hub.

        Parameters
        ----------
        name_or_path : str, path or None, default None
            A name of `list_heads()`; a folder of head.safetensors and head.json; or the id of such a repository on the
            Hub, "owner/name". None: the packaged "expressions-8".
        encoder : Encoder, EncoderConfig or None, default None
            Whose packaged head is wanted; None: that of the default weights. `check_encoder` compares, this only finds.
        revision : str or None, default None
            Commit, tag or branch of a Hub repository.
        local_files_only : bool, default False
            Use what has been downloaded before and nothing else.

        Returns
        -------
        Head

        Raises
        ------
        ModelError
            For a head that is not there, corrupt, or of a newer format; with a name, for an encoder that has none
            packaged.
        """
        if name_or_path is None:
            name_or_path = DEFAULT_HEAD
        if isinstance(name_or_path, (str, os.PathLike)) and os.path.isdir(name_or_path):
            return _load_folder(Path(name_or_path))
        packaged = list(_packaged())
        named = [(config, folder) for config, folder in packaged if config.name == str(name_or_path)]
        if named:
            return _load_folder(_of_encoder(named, encoder))
        if hub.is_repository(name_or_path):
            return _from_hub(str(name_or_path), revision, local_files_only)
        names = list(dict.fromkeys(config.name for config, _ in packaged))
        raise ModelError(
            f"{str(name_or_path)!r} is neither a folder, nor one of the packaged heads {names}, nor a Hub repository "
            f"id 'owner/name'"
        )

    # scikit-learn

    @classmethod
    def from_sklearn(
        cls,
        estimator: Any,
        encoder: Encoder,
        *,
        name: str = "custom",
        training_data: Sequence[str] = (),
        license: str = "",
        temperature: float = 1.0,
        quality: Mapping[str, Any] | None = None,
    ) -> Head:
        """Make a head of a linear classifier of scikit-learn that was fitted on embeddings.

        Parameters
        ----------
        estimator : LogisticRegression, LinearDiscriminantAnalysis or Pipeline
            Fitted on embeddings (N, D), not normalised, or a pipeline of a StandardScaler and one of these. Its
            probabilities must be the softmax of its decision function (of two classes, the logistic function).
        encoder : Encoder
            That gave the embeddings: `extractor.encoder`.
        name : str, default "custom"
            What the head is called.
        training_data : sequence of str, default ()
            What it was fitted on, for its card.
        license : str, default ""
            Terms of use, for its card.
        temperature : float, default 1.0
            That its logits are divided by.
        quality : mapping or None, default None
            Measured quality, for its card.

        Returns
        -------
        Head
            `predict_proba` is that of `estimator`, but for rounding and the temperature.

        Raises
        ------
        DataError
            For an estimator of another kind or that is not fitted.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.linear_model import LogisticRegression
        >>> from fergeneral import ExpressionExtractor, Head
        >>> encoder = ExpressionExtractor.from_pretrained(device="cpu").encoder
        >>> rows = np.random.default_rng(0).normal(size=(40, 512))  # embeddings of your own
        >>> Head.from_sklearn(LogisticRegression().fit(rows, ["bored", "curious"] * 20), encoder).classes
        ('bored', 'curious')
        """
        scaler, linear = _steps(estimator)
        weight, bias = np.asarray(linear.coef_, dtype=np.float64), np.asarray(linear.intercept_, dtype=np.float64)
        classes = [str(label) for label in linear.classes_]
        if len(classes) == 2 and len(weight) == 1:  # one logit, z: the softmax of (-z / 2, z / 2) is its logistic
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        size = weight.shape[1]
        if size != encoder.config.embedding_size:
            raise DataError(
                f"the estimator was fitted on {size} features, the embeddings of {encoder.config.model_id} have "
                f"{encoder.config.embedding_size}"
            )
        mean, scale = getattr(scaler, "mean_", None), getattr(scaler, "scale_", None)
        config = HeadConfig(
            name=name,
            classes=tuple(classes),
            encoder_id=encoder.config.model_id,
            encoder_sha256=weights_sha256(encoder),
            embedding_size=size,
            temperature=float(temperature),
            method=type(linear).__name__,
            training_data=tuple(training_data),
            license=license,
            quality=dict(quality or {}),
        )
        return cls(
            config,
            np.zeros(size) if mean is None else mean,
            np.ones(size) if scale is None else scale,
            weight,
            bias,
        )

    def to_sklearn(self) -> Pipeline:
        """The head as a fitted scikit-learn Pipeline on embeddings (N, D).

        Returns
        -------
        Pipeline
            A StandardScaler and a LogisticRegression, whose `predict` and `predict_proba` are those of this head, but
            for rounding.

        Raises
        ------
        MissingExtraError
            Without scikit-learn.

        Examples
        --------
        >>> from fergeneral import Head
        >>> [step for step, _ in Head.from_pretrained().to_sklearn().steps]
        ['standardscaler', 'logisticregression']
        """
        try:
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
            from sklearn.preprocessing import StandardScaler
        except ImportError as error:
            raise MissingExtraError("Head.to_sklearn", "scikit-learn", "eval") from error
        arrays = {name: array.astype(np.float64) for name, array in self._arrays.items()}
        scaler, linear = StandardScaler(), LogisticRegression()
        scaler.mean_, scaler.scale_, scaler.var_ = arrays["mean"], arrays["scale"], arrays["scale"] ** 2
        scaler.n_features_in_ = linear.n_features_in_ = self.config.embedding_size
        scaler.n_samples_seen_ = 1
        weight, bias = arrays["weight"] / self.config.temperature, arrays["bias"] / self.config.temperature
        if len(self.classes) == 2:  # scikit-learn has one logit there
            weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        linear.coef_, linear.intercept_, linear.n_iter_ = weight, bias, np.array([0])
        linear.classes_ = np.array(self.classes, dtype=object)
        return make_pipeline(scaler, linear)


def list_heads(model_id: str | None = None) -> list[str]:
    """The names of the packaged heads.

    Parameters
    ----------
    model_id : str or None, default None
        Of the encoder, one of `list_models()`; None: the default.

    Returns
    -------
    list of str
        The default head first; [] where the encoder has none.

    Examples
    --------
    >>> from fergeneral import list_heads
    >>> list_heads()
    ['expressions-8', 'expressions-7']
    """
    wanted = model_id or next(iter(hub.list_models()), None)
    names = sorted(config.name for config, _ in _packaged() if config.encoder_id == wanted)
    return sorted(names, key=lambda name: name != DEFAULT_HEAD)


def find_head_config(name_or_path: str | Path) -> HeadConfig | None:
    """The configuration of a head in a folder, of a packaged one of the default encoder ("expressions-8"), or of
    another one ("ENCODER/HEAD"); None where none is meant."""
    if os.path.isdir(name_or_path) and Path(name_or_path, HEAD_CONFIG_FILE).is_file():
        return _read_config(Path(name_or_path))
    encoder, slash, name = str(name_or_path).rpartition("/")
    wanted = encoder if slash else next(iter(hub.list_models()), None)
    return next((config for config, _ in _packaged() if (config.encoder_id, config.name) == (wanted, name)), None)


def _packaged() -> Iterator[tuple[HeadConfig, Path]]:
    weights = hub.weights_folder()
    if weights is None:
        return
    for path in sorted((weights / _HEADS_FOLDER).glob(f"*/*/{HEAD_CONFIG_FILE}")):
        yield _read_config(path.parent), path.parent


def _of_encoder(named: list[tuple[HeadConfig, Path]], encoder: Encoder | EncoderConfig | None) -> Path:
    """Of the packaged heads with one name, the folder of the one that belongs to an encoder."""
    config = encoder.config if isinstance(encoder, Encoder) else encoder
    if config is None:
        packaged = hub.packaged_models()
        if not packaged:
            raise ModelError("this installation has no packaged weights; give the folder of a head, and its encoder")
        config = packaged[0]
    for head, folder in named:
        if head.encoder_sha256 == config.weights_sha256:
            return folder
    raise ModelError(
        f"the encoder {config.model_id!r} has no packaged head {named[0][0].name!r}, which there is for "
        f"{', '.join(sorted({head.encoder_id for head, _ in named}))}: fit a head for this one "
        f"(ExpressionClassifier.fit, or fergeneral fit)"
    )


def _load_folder(folder: Path) -> Head:
    config = _read_config(folder)
    path = folder / HEAD_FILE
    data = read_weights(path, _MOST_HEAD_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    if digest != config.weights_sha256:
        raise ModelError(
            f"{path} is corrupt or was changed: its SHA-256 is {digest}, {HEAD_CONFIG_FILE} says "
            f"{config.weights_sha256!r}; get the file again"
        )
    try:
        arrays = load_arrays(data)
    except Exception as error:  # a header that lies brings out errors of many kinds
        raise ModelError(f"{path} is not a safetensors file that NumPy can read: {error}") from error
    wanted = ("mean", "scale", "weight", "bias")
    if set(arrays) != set(wanted) or any(array.dtype != np.float32 for array in arrays.values()):
        held = {name: str(array.dtype) for name, array in arrays.items()}
        raise ModelError(f"{path} must hold mean, scale, weight and bias as float32, it holds {reprlib.repr(held)}")
    head = Head(config, *(arrays[name] for name in wanted))
    hub.log_terms(f"{config.encoder_id}/{config.name}", config.license, config.weights_sha256)
    return head


def _read_config(folder: Path) -> HeadConfig:
    path = folder / HEAD_CONFIG_FILE
    data = read_weights(path, _MOST_CONFIG_BYTES)
    try:
        return HeadConfig.from_json(data.decode())
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error


def _from_hub(repo: str, revision: str | None, local_files_only: bool) -> Head:
    files = (HEAD_CONFIG_FILE, HEAD_FILE)
    folder = hub.download_files(repo, files, revision, kind="a head", local_files_only=local_files_only)
    try:
        return _load_folder(folder)
    except ModelError:
        if local_files_only:
            raise
    hub.download_again(repo, folder.name, *files)  # the copy in the cache may be corrupt
    return _load_folder(folder)


def _steps(estimator: Any) -> tuple[Any, Any]:
    """The scaler (None where there is none) and the fitted linear classifier. Raises DataError."""
    steps = [step for _, step in getattr(estimator, "steps", [("", estimator)]) if step not in (None, "passthrough")]
    *before, linear = steps
    kinds = [type(step).__name__ for step in before]
    if kinds not in ([], ["StandardScaler"]):
        raise DataError(f"a head has a StandardScaler before its linear layer, or nothing; this pipeline has {kinds}")
    if type(linear).__name__ not in ("LogisticRegression", "LogisticRegressionCV", "LinearDiscriminantAnalysis"):
        raise DataError(
            f"a head is made of a LogisticRegression or a LinearDiscriminantAnalysis, alone or after a StandardScaler; "
            f"got {type(linear).__name__}"
        )
    if not hasattr(linear, "coef_"):
        raise DataError(f"{type(linear).__name__} is not fitted; call its fit on embeddings first")
    if getattr(linear, "multi_class", None) == "ovr" and len(linear.classes_) > 2:
        raise DataError("a LogisticRegression with multi_class='ovr' gives no softmax; leave that option out")
    return (before[0] if before else None), linear


def _is_line(value: Any, longest: int) -> bool:
    return isinstance(value, str) and len(value) <= longest and value.isprintable()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")
