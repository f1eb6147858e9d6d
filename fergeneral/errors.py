"""Every error this package raises on purpose, in one tree."""


class FergeneralError(Exception):
    """Base of all errors raised by fergeneral."""


class ImageError(FergeneralError, ValueError):
    """An image cannot be read, or is not an image this package understands."""


class ModelError(FergeneralError):
    """Weights or their configuration are missing, damaged or of another kind than stated."""


class DataError(FergeneralError, ValueError):
    """A data set, label file or stored table is missing, damaged or inconsistent."""


class TrainingError(FergeneralError):
    """A training run cannot go on: it collapsed, its checkpoint is damaged or another's, a process or disk failed."""


class MissingExtraError(FergeneralError, ImportError):
    """An optional dependency is not installed; the message holds the pip command that installs it."""

    def __init__(self, purpose: str, package: str, extra: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed: type  pip install 'fergeneral[{extra}]'")
