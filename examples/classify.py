"""A classifier for your own expressions, on frozen embeddings.

python examples/classify.py TRAIN TEST

TRAIN and TEST are folders of face crops, one folder for each label (for whole photos, leave out `aligned=True`).
"""

import sys
from pathlib import Path

from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fergeneral import ExpressionFeatures


def labelled_images(folder: str) -> tuple[list[Path], list[str]]:
    paths = sorted(Path(folder).glob("*/*"))
    return paths, [path.parent.name for path in paths]


train, train_labels = labelled_images(sys.argv[1])
test, test_labels = labelled_images(sys.argv[2])

model = make_pipeline(ExpressionFeatures(aligned=True), StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
model.fit(train, train_labels)
print(classification_report(test_labels, model.predict(test)))
