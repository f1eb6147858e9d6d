"""The public surface, what importing costs, and that nothing unpickles or evaluates what was downloaded."""

from __future__ import annotations

import ast
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
        "ClassifiedFace",
        "ClassifiedTrackedFace",
        "DataError",
        "Detection",
        "Detector",
        "ExpressionClassifier",
        "ExpressionExtractor",
        "ExpressionFeatures",
        "Face",
        "FergeneralError",
        "Head",
        "ImageError",
        "MissingExtraError",
        "ModelError",
        "Neighbour",
        "TrackedFace",
        "TrainingError",
        "VideoFrame",
        "align_face",
        "classify",
        "extract",
        "extract_video",
        "find_similar",
        "list_heads",
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
        fergeneral.extract_video: ["path", "fps", "on_error"],
        extractor.from_pretrained: [
            "name_or_path",
            "revision",
            "device",
            "detector",
            "min_face_size",
            "local_files_only",
        ],
        extractor.extract: ["self", "image"],
        extractor.extract_many: ["self", "images", "batch_size", "on_error"],
        extractor.extract_video: ["self", "path", "fps", "batch_size", "on_error"],
        extractor.align: ["self", "image", "landmarks"],
        extractor.encode: ["self", "crops", "batch_size", "show_progress", "normalize", "flip"],
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
        ("sklearn", "heads.fit", "eval"),
        ("matplotlib", "evaluate.figures", "eval"),
        ("tensorboard", "train", "train"),
        ("onnxruntime", "export", "onnx"),
        ("av", "video", "video"),
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


# What runs code that it finds in data, or starts programs. Data is read by json, csv, safetensors, pyarrow, Pillow,
# numpy.load(allow_pickle=False). The one torch.load is facenet-pytorch's own: see test_detection.py.
MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "subprocess", "runpy"}
CALLS = {"eval", "exec", "__import__", "importlib.import_module", "os.system", "os.popen", "os.execv", "os.spawnv"}
CALLS |= {"torch.load", "torch.jit.load", "torch.hub.load", "onnx.load", "pandas.read_pickle"}
NEEDS = {"numpy.load": ("allow_pickle", False), "timm.create_model": ("pretrained", False)}
ALLOWED = {
    ("__init__.py", "importlib.import_module"),  # of the package's own modules, by the names in __init__.py
    ("transformer.py", "joblib"),  # its `hash` alone, which pickles a detector and unpickles nothing
}


def dangers(source: str) -> set[str]:
    """What of the above is imported or called in a module's source, whatever name it is given there."""
    tree = ast.parse(source)
    known = {"np": "numpy", "pd": "pandas"}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known.update({alias.asname or alias.name: alias.name for alias in node.names})
            found |= {alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES}
        if isinstance(node, ast.ImportFrom) and node.module:
            known.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
            found |= {node.module} if node.module.partition(".")[0] in MODULES else set()
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & CALLS
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Name, ast.Attribute, ast.Call)):
            continue
        name = ast.unparse(node.func if isinstance(node, ast.Call) else node)
        start, dot, rest = name.partition(".")
        name = known.get(start, start) + dot + rest
        if name in CALLS:
            found.add(name)
        if isinstance(node, ast.Call) and name in NEEDS:
            option, value = NEEDS[name]
            given = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
            found |= set() if given.get(option) is value else {name}
    return found


@pytest.mark.parametrize(
    ("source", "danger"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("import torch\ntorch.load('x', weights_only=True)", "torch.load"),
        ("from torch import load as read", "torch.load"),
        ("import torch as t\nread = t.load", "torch.load"),
        ("eval('1')", "eval"),
        ("import numpy as np\nnp.load('x')", "numpy.load"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "numpy.load"),
        ("import timm\ntimm.create_model(name, pretrained=really)", "timm.create_model"),
        ("from importlib import import_module\nimport_module(name)", "importlib.import_module"),
    ],
)
def test_each_danger_is_seen(source: str, danger: str) -> None:
    assert dangers(source) == {danger}


def test_nothing_unpickles_evaluates_or_starts_programs() -> None:
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        assert {(name, danger) for danger in dangers(path.read_text())} <= ALLOWED, name


def test_only_training_imports_training() -> None:
    for path in PACKAGE.rglob("*.py"):
        if "train" not in path.relative_to(PACKAGE).parts:
            assert not re.search(r"(from|import) fergeneral\.train", path.read_text()), path
