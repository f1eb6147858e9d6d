"""A classifier for your own expressions, on frozen embeddings.

python examples/classify.py TRAIN TEST [--aligned]

TRAIN and TEST are folders of photos, one folder for each label; with --aligned, of face crops.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fergeneral import ExpressionFeatures

features = ExpressionFeatures(aligned="--aligned" in sys.argv, on_missing="nan")


def embedded(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels. The encoder is frozen, so this is done once, whatever is fitted on the rows."""
    paths = sorted(Path(folder).glob("*/*"))
    rows, labels = features.fit_transform(paths), np.array([path.parent.name for path in paths])
    has_face = ~np.isnan(rows).any(axis=1)
    print(f"{folder}: {has_face.sum()} of {len(paths)} images have a face")
    return rows[has_face], labels[has_face]


train, train_labels = embedded(sys.argv[1])
test, test_labels = embedded(sys.argv[2])

model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
model.fit(train, train_labels)
print(classification_report(test_labels, model.predict(test)))
