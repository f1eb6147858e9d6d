"""How good embeddings are, by protocols that do not look at the test set. Needs the extra: 'fergeneral[eval]'."""

from fergeneral.errors import MissingExtraError

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise MissingExtraError("fergeneral.evaluate", "scikit-learn", "eval") from error

from fergeneral.evaluate.conditions_report import evaluate_conditions
from fergeneral.evaluate.groups import evaluate_groups
from fergeneral.evaluate.heads import evaluate_head
from fergeneral.evaluate.leakage import attribute, identification, person_metric
from fergeneral.evaluate.metrics import Calibration, Metrics, calibrate, paired_bootstrap, score
from fergeneral.evaluate.probe import Probe, ProbeResult, embed_dataset, fit_probe, linear_probe, probe_datasets
from fergeneral.evaluate.protocols import (
    CrossResult,
    FewShot,
    SGDProbeResult,
    SubjectFolds,
    cross_dataset,
    few_shot,
    knn,
    sgd_probe,
    subject_folds,
)
from fergeneral.evaluate.report import evaluate
from fergeneral.evaluate.robustness import CONDITIONS, Condition, conditions
from fergeneral.evaluate.structure import effective_dimension, identity, separation
from fergeneral.evaluate.unseen import Unseen, few_people, learn_unseen, learn_unseen_people, pretraining_saw

__all__ = [
    "CONDITIONS",
    "Calibration",
    "Condition",
    "CrossResult",
    "FewShot",
    "Metrics",
    "Probe",
    "ProbeResult",
    "SGDProbeResult",
    "SubjectFolds",
    "Unseen",
    "attribute",
    "calibrate",
    "conditions",
    "cross_dataset",
    "effective_dimension",
    "embed_dataset",
    "evaluate",
    "evaluate_conditions",
    "evaluate_groups",
    "evaluate_head",
    "few_people",
    "few_shot",
    "fit_probe",
    "identification",
    "identity",
    "knn",
    "learn_unseen",
    "learn_unseen_people",
    "linear_probe",
    "paired_bootstrap",
    "person_metric",
    "pretraining_saw",
    "probe_datasets",
    "score",
    "separation",
    "sgd_probe",
    "subject_folds",
]
