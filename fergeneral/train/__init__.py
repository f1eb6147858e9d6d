"""Contrastive pretraining of the encoder (CRS-CONT). Needs the extra: pip install 'fergeneral[train]'."""

from fergeneral.errors import MissingExtraError

try:
    import tensorboard  # noqa: F401
except ImportError as error:
    raise MissingExtraError("fergeneral.train", "tensorboard", "train") from error
