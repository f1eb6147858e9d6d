"""What a run tells of itself: TensorBoard, log.jsonl and a progress line on stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from fergeneral.storage import whole_file
from fergeneral.train.checkpoint import Run

LOG_FILE = "log.jsonl"


class Log:
    """Scalars to TensorBoard and log.jsonl, and a progress line on stderr.

    `step`: that of the checkpoint the run goes on from. What was logged after it is taken out, as it comes again.
    """

    def __init__(self, out: Path, step: int) -> None:
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
        path = out / LOG_FILE
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        kept = [line for line in lines if _step_of(line) <= step]
        with whole_file(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))
        self._file = path.open("a")

    def write(self, run: Run, progress: float, pixels: int, rate: float, values: dict[str, float]) -> None:
        """One line of terms; `rate` in images a second since the last."""
        row = {"step": run.step, "seconds": round(run.seconds, 1), "pixels": pixels, "images_per_s": round(rate, 1)}
        self._file.write(json.dumps({**row, **values}) + "\n")
        self._file.flush()
        for name, value in {**values, "images_per_s": rate, "pixels": pixels}.items():
            self._board.add_scalar(name, value, run.step)
        left = run.seconds / max(progress, 1e-9) - run.seconds
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(
            f"step {run.step}  {progress:.1%}  {pixels} px  {shown}  {rate:.0f} images/s  ETA {left / 60:.1f} min",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        self._board.close()


def _step_of(line: str) -> float:
    """The step of a line of log.jsonl; infinite for what is left of a torn one."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
