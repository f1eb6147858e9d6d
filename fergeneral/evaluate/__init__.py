"""How good embeddings are, by protocols that do not look at the test set. Needs the extra: 'fergeneral[eval]'."""

from fergeneral.errors import MissingExtraError

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise MissingExtraError("fergeneral.evaluate", "scikit-learn", "eval") from error

from fergeneral.evaluate.probe import Probe, ProbeResult, embed_dataset, fit_probe, linear_probe, probe_datasets

__all__ = ["Probe", "ProbeResult", "embed_dataset", "fit_probe", "linear_probe", "probe_datasets"]
