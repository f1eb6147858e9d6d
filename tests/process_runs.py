"""Programs that test_process.py runs in processes of their own: python process_runs.py PROGRAM PHOTO [MODEL].

A program that ends with status 0 has found what it should; PHOTO has one face.
"""

from __future__ import annotations

import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

FORK_HANDLERS: list[str] = []  # the modules that have registered some
if hasattr(os, "register_at_fork"):
    _register = os.register_at_fork

    def _noted(**handlers: Any) -> None:
        FORK_HANDLERS.append(sys._getframe(1).f_globals["__name__"])
        _register(**handlers)

    os.register_at_fork = _noted

# What the package uses changes the process itself when it is imported, so the first look comes after that.
import facenet_pytorch  # noqa: E402, F401
import huggingface_hub  # noqa: E402, F401
import joblib  # noqa: E402, F401
import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402, F401
import PIL.ImageDraw  # noqa: E402, F401
import safetensors.torch  # noqa: E402, F401
import sklearn.linear_model  # noqa: E402
import sklearn.model_selection  # noqa: E402, F401
import threadpoolctl  # noqa: E402, F401
import timm  # noqa: E402, F401
import torch  # noqa: E402
import torch.utils.data  # noqa: E402
import torchvision  # noqa: E402, F401
import tqdm  # noqa: E402, F401
from PIL import Image, ImageFile  # noqa: E402


def logger(value: logging.Logger) -> tuple[Any, ...]:
    return value.level, list(value.handlers), list(value.filters), value.propagate, value.disabled


def process_state() -> dict[str, Any]:
    """What a program may have set, by name."""
    names = sorted(logging.root.manager.loggerDict)
    with ThreadPoolExecutor(1) as pool:
        threads_elsewhere = pool.submit(torch.get_num_threads).result()
    return {
        "warning filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "root logger": logger(logging.getLogger()),
        **{f"logger {name}": logger(logging.getLogger(name)) for name in names},
        "fork handlers": [name for name in FORK_HANDLERS if name.startswith("fergeneral")],
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "python path": list(sys.path),
        "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook, sys.displayhook),
        "recursion limit": sys.getrecursionlimit(),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "locale": locale.setlocale(locale.LC_ALL),
        "garbage collector": (gc.isenabled(), gc.get_threshold()),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "random": random.getstate(),
        "numpy random": repr(np.random.get_state()),
        "numpy errors": (np.geterr(), np.geterrcall()),
        "numpy printing": np.get_printoptions(),
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads(), threads_elsewhere),
        "torch defaults": (torch.get_default_dtype(), torch.get_default_device()),
        "torch random": torch.get_rng_state().tolist(),
        "torch modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "torch precision": (torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()),
        "torch back-ends": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "Pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, sorted(Image.OPEN), dict(Image.EXTENSION)),
    }


def state(photo: str) -> None:
    """Importing and using the package leaves all of it as it was."""
    Image.init()
    torch.set_num_threads(2)
    before = process_state()

    import fergeneral
    from fergeneral.datasets import open_dataset
    from fergeneral.evaluate import linear_probe

    assert "fergeneral" in open_dataset.__module__
    assert len(fergeneral.extract(photo)) == 1
    extractor = fergeneral.ExpressionExtractor.from_pretrained(device="cpu")
    assert [len(faces) for faces in extractor.extract_many([photo, photo, photo])] == [1, 1, 1]
    crops = np.random.default_rng(0).integers(0, 256, (40, 50, 60, 3), dtype=np.uint8)
    embeddings = extractor.encode(crops)
    assert fergeneral.ExpressionFeatures(device="cpu").fit_transform([photo]).shape == (1, 512)
    int8 = fergeneral.ExpressionExtractor.from_pretrained("general-r18-cycle-int8", device="cpu")
    assert len(int8.extract(photo)) == 1
    labels = ["happiness", "sadness"] * 20
    assert linear_probe(embeddings, labels, embeddings, labels).n_test == 40
    with suppress(fergeneral.ImageError):
        extractor.extract(b"no image")

    after = process_state()
    for name in before:
        assert before[name] == after[name], (name, before[name], after[name])
    for name in after.keys() - before.keys():  # loggers that are new
        assert after[name] == (logging.NOTSET, [], [], True, False), (name, after[name])


def settings(photo: str) -> None:
    """Whatever is set for torch and numpy, the embeddings are the same."""
    from fergeneral import ExpressionExtractor

    def embeddings() -> list[np.ndarray]:
        extractor = ExpressionExtractor.from_pretrained(device="cpu")
        (face,), ((many,),) = extractor.extract(photo), extractor.extract_many([photo])
        crops = extractor.encode([np.full((70, 60, 3), 90, dtype=np.uint8)] * 5)
        return [face.box, face.landmarks, face.embedding, many.embedding, crops]

    expected = embeddings()

    def check() -> None:
        for found, wanted in zip(embeddings(), expected, strict=True):
            assert found.dtype == np.float32
            assert abs(found - wanted).max() < 1e-3

    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        torch.set_default_dtype(dtype)
        check()
    torch.set_default_dtype(torch.float32)
    for device in ("meta", "cuda"):
        torch.set_default_device(device)
        check()
    torch.set_default_device(None)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            check()
    torch.use_deterministic_algorithms(True)
    check()
    torch.use_deterministic_algorithms(False)
    with np.errstate(all="raise"):
        check()
    torch.set_num_threads(2)
    with torch.no_grad():
        check()
    with torch.inference_mode():
        check()


def bare(photo: str, model: str) -> None:
    """Without a home, where nothing but standard output may be written to."""
    import tempfile

    from fergeneral import ExpressionExtractor, ModelError, extract

    for place in (os.path.dirname(sys.modules["fergeneral"].__file__ or ""), os.environ["HF_HOME"]):
        try:
            tempfile.TemporaryFile(dir=place).close()
        except OSError:
            continue
        raise AssertionError(f"{place} can be written to")
    (face,) = extract(photo)
    assert np.isfinite(face.embedding).all()
    (cached,) = ExpressionExtractor.from_pretrained(model, local_files_only=True).extract(photo)
    assert np.isfinite(cached.embedding).all()
    try:
        ExpressionExtractor.from_pretrained("nobody/nothing", local_files_only=True)
    except ModelError:
        return
    raise AssertionError("a model that is nowhere was loaded")


def strict(photo: str) -> None:
    """With warnings as errors, without assertions and docstrings (-OO), in an ASCII locale: the command line, too."""
    from fergeneral import extract
    from fergeneral.cli import main

    (face,) = extract(photo)
    table = Path(photo).with_suffix(".csv")
    status = main(["extract", photo, "-o", str(table), "--device", "cpu"])
    status += main(["extract", photo, "--device", "cpu"])
    rows = table.read_text(encoding="utf-8").splitlines()
    if status or len(rows) != 2 or not 0 < face.score <= 1:  # no assert: -OO leaves them out
        sys.exit(f"status {status}, rows {rows}")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
