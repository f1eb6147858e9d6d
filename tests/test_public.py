"""The public surface, what importing costs, and that nothing unpickles or evaluates what was downloaded."""

from __future__ import annotations

import inspect
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import fergeneral

PACKAGE = Path(fergeneral.__file__).parent


def test_public_names() -> None:
    assert fergeneral.__all__ == [
        "DataError",
        "Detection",
        "Detector",
        "ExpressionExtractor",
        "ExpressionFeatures",
        "Face",
        "FergeneralError",
        "ImageError",
        "MissingExtraError",
        "ModelError",
        "TrainingError",
        "align_face",
        "extract",
        "list_models",
        "load_image",
    ]
    for name in fergeneral.__all__:
        value = getattr(fergeneral, name)
        assert value.__doc__, name
        assert value.__module__.startswith("fergeneral."), name
    with pytest.raises(AttributeError, match="nonsense"):
        fergeneral.nonsense  # noqa: B018


def test_fixed_signatures() -> None:
    extractor = fergeneral.ExpressionExtractor
    parameters = {
        fergeneral.extract: ["image"],
        extractor.from_pretrained: ["name_or_path", "revision", "device", "detector", "local_files_only"],
        extractor.extract: ["self", "image"],
        extractor.extract_many: ["self", "images", "batch_size", "on_error"],
        extractor.encode: ["self", "crops", "batch_size", "show_progress", "normalize"],
        extractor.save_pretrained: ["self", "folder", "report", "training", "notes"],
        extractor.push_to_hub: ["self", "repo", "report", "training", "notes"],
        fergeneral.align_face: ["image", "landmarks", "size", "template"],
        fergeneral.load_image: ["source", "max_pixels"],
        fergeneral.list_models: [],
    }
    for function, names in parameters.items():
        assert list(inspect.signature(function).parameters) == names
    defaults = {name: p.default for name, p in inspect.signature(extractor.encode).parameters.items()}
    assert (defaults["batch_size"], defaults["show_progress"], defaults["normalize"]) == (64, None, False)


def test_errors_are_one_tree() -> None:
    for name in ("ImageError", "ModelError", "DataError", "MissingExtraError", "TrainingError"):
        assert issubclass(getattr(fergeneral, name), fergeneral.FergeneralError)
    message = str(fergeneral.MissingExtraError("a .parquet file", "pyarrow", "parquet"))
    assert "pip install 'fergeneral[parquet]'" in message


def test_importing_is_free() -> None:
    heavy = ["torch", "timm", "torchvision", "numpy", "PIL"]
    code = f"import sys, fergeneral; print([name for name in {heavy} if name in sys.modules])"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.strip() == "[]"
    assert after.ru_utime - before.ru_utime < 0.2


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fergeneral.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: print(int('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip().endswith("0")
    assert "extract" in done.stdout


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [
        ("sklearn", "transformer", "eval"),
        ("sklearn", "evaluate", "eval"),
        ("matplotlib", "evaluate.figures", "eval"),
        ("tensorboard", "train", "train"),
        ("onnxruntime", "export", "onnx"),
        ("ray", "distributed", "ray"),
    ],
)
def test_a_missing_extra_says_what_to_type(package: str, module: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\nfrom fergeneral.errors import MissingExtraError\n"
        f"try: import fergeneral.{module}\nexcept MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert f"pip install 'fergeneral[{extra}]'" in done.stdout, done.stderr


def test_nothing_unpickles_or_evaluates() -> None:
    forbidden = re.compile(
        r"(import|from) (pickle|dill|cloudpickle|joblib|marshal)|torch\.load\b|(?<!\.)\b(eval|exec)\("
        r"|allow_pickle=True|weights_only"
    )
    for path in PACKAGE.rglob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            assert not forbidden.search(line), f"{path}:{number}: {line}"


def test_only_training_imports_training() -> None:
    for path in PACKAGE.rglob("*.py"):
        if "train" not in path.relative_to(PACKAGE).parts:
            assert not re.search(r"(from|import) fergeneral\.train", path.read_text()), path
