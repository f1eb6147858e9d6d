"""scikit-learn programs that test_sklearn.py runs in one process of their own: python sklearn_runs.py PHOTOS FOLDER.

PHOTOS holds LABEL/PHOTO, eight photos with one face each; FOLDER is empty. The process first reads a photo, then runs
every program and prints what came of each as JSON: "" where it found what it should, else the traceback.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from fergeneral import ExpressionFeatures, extract

TRUSTED = ["fergeneral.transformer.ExpressionFeatures"]  # all that a user of skops has to trust


class Programs:
    """Each public method is a program."""

    def __init__(self, photos: Path, folder: Path) -> None:
        self.photos = np.array(sorted(map(str, photos.glob("*/*.png"))))
        self.labels = np.array([Path(photo).parent.name for photo in self.photos])
        self.folder = folder

    def pipeline(self) -> None:
        model = classifier().fit(self.photos, self.labels)
        assert model.score(self.photos, self.labels) == 1

    def cross_validation(self) -> None:
        scores = cross_val_score(classifier(), self.photos, self.labels, cv=2, n_jobs=2)
        assert scores.min() > 0.7

    def grid_search(self) -> None:
        search = GridSearchCV(
            classifier(cache=self.folder / "rows"), {"logisticregression__C": [0.01, 1]}, cv=2, n_jobs=2
        ).fit(self.photos, self.labels)
        assert search.score(self.photos, self.labels) == 1
        assert len(list((self.folder / "rows").rglob("*"))) >= len(self.photos)

    def random_forest(self) -> None:
        rows = ExpressionFeatures(device="cpu").fit_transform(self.photos)
        for jobs in (None, 2):
            forest = RandomForestClassifier(20, random_state=0, n_jobs=jobs).fit(rows, self.labels)
            assert forest.score(rows, self.labels) == 1

    def column_transformer(self) -> None:
        frame = pd.DataFrame({"path": self.photos, "age": np.arange(len(self.photos))}, index=range(100, 108))
        for column in ("path", ["path"]):
            faces = ("face", ExpressionFeatures(device="cpu"), column)
            columns = ColumnTransformer([faces, ("age", StandardScaler(), ["age"])])
            rows = columns.fit_transform(frame)
            assert rows.shape == (len(self.photos), 513)
            assert np.allclose(rows[:, :512], ExpressionFeatures(device="cpu").transform(self.photos), atol=1e-3)
        assert make_pipeline(columns, LogisticRegression()).fit(frame, self.labels).score(frame, self.labels) == 1
        table = columns.set_output(transform="pandas").fit_transform(frame)
        assert list(table.index) == list(frame.index)
        assert list(table.columns[[0, 511, 512]]) == ["face__embedding_0", "face__embedding_511", "age__age"]

    def pipeline_memory(self) -> None:
        for memory in (str(self.folder / "memory"), joblib.Memory(self.folder / "memory", verbose=0)):
            model = classifier(memory=memory).fit(self.photos, self.labels)
            assert model.score(self.photos, self.labels) == 1

    def joblib_memory(self) -> None:
        embed = joblib.Memory(self.folder / "memory", verbose=0).cache(ExpressionFeatures(device="cpu").fit_transform)
        assert np.array_equal(embed(self.photos[:2]), embed(self.photos[:2]))

    def joblib_file(self) -> None:
        model, path = classifier().fit(self.photos, self.labels), self.folder / "model.joblib"
        joblib.dump(model, path)
        assert path.stat().st_size < 100_000  # the weights are not in it
        self.same(model, joblib.load(path))

    def skops_file(self) -> None:
        import skops.io

        model, path = classifier().fit(self.photos, self.labels), self.folder / "model.skops"
        skops.io.dump(model, path)
        assert skops.io.get_untrusted_types(file=path) == TRUSTED
        self.same(model, skops.io.load(path, trusted=TRUSTED))

    def same(self, model: Pipeline, loaded: Pipeline) -> None:
        fitted, again = model[0], loaded[0]
        assert (again.model_id_, again.weights_sha256_) == (fitted.model_id_, fitted.weights_sha256_)
        assert np.allclose(loaded.predict_proba(self.photos), model.predict_proba(self.photos), atol=1e-3)


def classifier(*, memory: object = None, cache: Path | None = None) -> Pipeline:
    features = ExpressionFeatures(device="cpu", cache=cache)
    return make_pipeline(features, StandardScaler(), LogisticRegression(max_iter=500), memory=memory)


PROGRAMS = [name for name in vars(Programs) if not name.startswith("_") and name != "same"]


def outcome(program: Callable[[], None]) -> str:
    try:
        program()
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    programs = Programs(Path(sys.argv[1]), Path(sys.argv[2]))
    assert extract(programs.photos[0])
    warnings.simplefilter("error", UserWarning)
    print(json.dumps({name: outcome(getattr(programs, name)) for name in PROGRAMS}))
