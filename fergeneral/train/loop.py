"""The training loop, top to bottom: data on the device -> two views -> network -> objective -> step."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fergeneral.datasets import COARSE_LABELS, EXPRESSIONS
from fergeneral.encoder import EncoderConfig, build_network, feature_size
from fergeneral.errors import DataError, TrainingError
from fergeneral.hub import TRAINING_FILE, load_encoder, save_folder, training_record
from fergeneral.storage import whole_file
from fergeneral.train.augment import draw_parameters, make_views
from fergeneral.train.checkpoint import Run, checkpoint_exists
from fergeneral.train.config import Recipe
from fergeneral.train.data import TrainingSet, load_training_set
from fergeneral.train.depthwise import compute_depthwise_gradients_in_float32
from fergeneral.train.distributed import Processes, gather
from fergeneral.train.log import Log
from fergeneral.train.narrow import narrow
from fergeneral.train.objective import CRSContLoss, SimCLR, SupCon

CHECKPOINT_FILE = "checkpoint.safetensors"
_LOG_EVERY = 20  # steps
_STORAGE_FACTOR = 1.25  # images are kept this much larger than a stage's input, since views are crops of them
_NARROWED_BY = 8192  # images
_COLLAPSED_SPREAD = 0.01
_COLLAPSED_LOGS = 5  # in a row, before a run is given up


@dataclasses.dataclass
class Outputs:
    """Of one global batch: `projections` (B, 2, P), L2-normalised; `coarse` (B, 2, 4) and `fine` (B, 2, 8) logits."""

    projections: Tensor
    coarse: Tensor
    fine: Tensor | None


class PretrainingNetwork(nn.Module):
    """The encoder and the heads that only training needs (projection 512-512-ReLU-128, coarse 128-4, fine 512-8)."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.encoder = build_network(recipe.architecture)
        if recipe.start_from:
            _start(self.encoder, recipe.start_from)
        for name in recipe.frozen:
            self.encoder.get_submodule(name).eval().requires_grad_(False)
        compute_depthwise_gradients_in_float32(self.encoder)
        width = self.embedding_size = feature_size(self.encoder)
        self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, recipe.projection_size))
        self.coarse = nn.Linear(recipe.projection_size, len(COARSE_LABELS))
        self.fine = nn.Linear(width, len(EXPRESSIONS)) if recipe.fine_weight else None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(n, 3, S, S) normalised -> projections (n, P), coarse logits (n, 4) and, if trained, fine logits (n, 8)."""
        features = self.encoder(x)
        projections = F.normalize(self.projection(features).float(), dim=1)
        outputs = (projections, self.coarse(projections))
        return outputs if self.fine is None else (*outputs, self.fine(features))


def train(
    recipe: Recipe,
    data: str | Path,
    out: str | Path,
    *,
    device: str | None = None,
    minutes: float | None = None,
    stop_after: float | None = None,
    checkpoint_minutes: float = 2.0,
    resume: bool = False,
    show_progress: bool = True,
) -> Path | None:
    """Pretrain an encoder and write the folder that `ExpressionExtractor.from_pretrained` reads.

    `data`: the folder that holds the recipe's data sets. `out`: gets checkpoint.safetensors and the one before it,
    log.jsonl, tensorboard/ and at the end model.safetensors and config.json. `minutes`: fit the whole schedule, over
    all resumes, into this much training time instead of the recipe's epochs. `stop_after`: end this call after so
    many minutes, with a checkpoint. `checkpoint_minutes`: so often one is written on the way. `resume`: go on from
    the newest whole checkpoint in `out`; where there is none, start. Ctrl-C and SIGTERM save a checkpoint and stop.
    Returns `out` when the schedule is finished, None when it was stopped before.
    Raises DataError for data at fault and TrainingError for a collapsed run, a checkpoint that is corrupt or of
    another recipe or data, a number of processes that does not divide the batch, a lost process and a full disk.

    Under torchrun every process trains on its part of each batch, whose size is the recipe's whatever the number of
    processes; `out` must be one folder for all of them. When a process is lost the others end with an error, and
    `torchrun --max-restarts N ... --resume` starts all again from the last checkpoint, on as many processes as there
    are then. (For a machine to come back, torchrun itself needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its
    environment: seen with torch 2.14.)

    The same before and after, on any number of processes: the images of each step and their order (each epoch a
    permutation of all images, of which the last len % batch are left out), their views, the step count, the learning
    rate and the stage, since all are functions of the recipe's seed and the step or, with `minutes`, of the training
    time; weights, their average and the optimiser's state come from the checkpoint. Not the same bit for bit: sums,
    whose order depends on the number of processes. Not the same: batch statistics, which on a CPU are of a process's
    own part of the batch, and without the recipe's gather_features the loss, which then sees that part alone.

    Examples
    --------
    >>> from fergeneral.train.config import find_recipe
    >>> from fergeneral.train.loop import train
    >>> train(find_recipe("crs-cont-cpu"), "data", "runs/mine", minutes=85)  # doctest: +SKIP
    """
    out = Path(out)
    checkpoint = out / CHECKPOINT_FILE
    if checkpoint_exists(checkpoint) and not resume:
        raise TrainingError(f"{checkpoint} is there already; add --resume to go on, or choose another --out")
    processes = Processes(device)
    processes.share(recipe.batch_size)  # does it divide? Asked before anything is waited for
    with processes, StopRequest() as stop:

        def run() -> Path | None:
            images = load_training_set(data, recipe, show_progress=show_progress and processes.is_first)
            trainer = Trainer(recipe, images, out, processes, minutes)
            if resume:
                trainer.resume()
            try:
                finished = trainer.train(stop, stop_after, checkpoint_minutes)
                return trainer.write_encoder() if finished else None
            except OSError as error:  # of a full or unwritable disk
                raise TrainingError(
                    f"cannot write to {out}: {error}; a checkpoint that was there is kept, --resume goes on from it"
                ) from error

        return run()  # a function, so that its trainer is gone before the processes part


class Trainer:
    """One run on one process: `step()` is a training step, `train()` repeats it until the schedule ends."""

    def __init__(
        self, recipe: Recipe, images: TrainingSet, out: Path, processes: Processes, minutes: float | None = None
    ) -> None:
        if len(images.pool) < recipe.batch_size:
            raise TrainingError(f"a batch of {recipe.batch_size} cannot be drawn from {len(images.pool)} images")
        self.recipe, self.processes, self.minutes = recipe, processes, minutes
        self.out = out
        self.all_images = images
        self.images = images
        self.stage_pixels = 0
        self.steps_per_epoch = len(images.pool) // recipe.batch_size
        self.total_steps = max(1, round(recipe.epochs * self.steps_per_epoch))
        self._order = (-1, torch.empty(0, dtype=torch.long))
        self._collapsed_logs = 0
        self._saved_step = -1
        torch.manual_seed(recipe.seed)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True  # the input size is fixed within a stage
        network = PretrainingNetwork(recipe).to(processes.device).to(memory_format=torch.channels_last)
        wrapped = processes.wrap(network, recipe)
        self._forward: Callable[[Tensor], tuple[Tensor, ...]] = torch.compile(wrapped) if recipe.compile else wrapped
        self._bf16 = recipe.bf16 and _computes_bf16(processes.device)
        optimizer = _optimizer(recipe, network, fused=processes.device.type in ("cuda", "cpu"))
        self._network = network
        average = None
        if recipe.average_decay:
            averaging = get_ema_multi_avg_fn(recipe.average_decay)
            average = AveragedModel(network.encoder, multi_avg_fn=averaging, use_buffers=True)
        self.run = Run(recipe, images.fingerprint(), network, optimizer, average)
        self._objective = _objective(recipe)
        config = EncoderConfig(model_id="")
        self._mean = torch.tensor(config.mean, device=processes.device).view(1, 3, 1, 1)
        self._std = torch.tensor(config.std, device=processes.device).view(1, 3, 1, 1)

    def progress(self) -> float:
        """How much of the schedule is done, 0..1, the same on all processes."""
        if self.minutes is None:
            return self.run.step / self.total_steps
        return self.processes.of_first(self.run.seconds / (60 * self.minutes))

    def learning_rate(self, progress: float) -> float:
        """The optimiser's rate for the next step."""
        recipe = self.recipe
        warmup_steps = recipe.warmup_epochs * self.steps_per_epoch
        warmup = min(1.0, (self.run.step + 1) / warmup_steps) if warmup_steps else 1.0
        if recipe.schedule == "cosine":
            return recipe.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return recipe.learning_rate * warmup * 0.5 ** math.floor(5 * progress)

    def batch_index(self) -> Tensor:
        """(B,) indices of this step's images, for all processes: a new permutation each epoch, from the seed."""
        epoch, position = divmod(self.run.step, self.steps_per_epoch)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
            pool = self.images.pool
            self._order = (epoch, pool[torch.randperm(len(pool), generator=generator)])
        start = position * self.recipe.batch_size
        return self._order[1][start : start + self.recipe.batch_size]

    def views(self, index: Tensor) -> Tensor:
        """This process's share of the batch, (2n, 3, S, S) normalised: all first views, then all second views."""
        generator = torch.Generator().manual_seed((self.recipe.seed + 1) * 7_368_787 + self.run.step)
        mine = self.processes.share(len(index))
        halves = []
        for _ in range(2):
            parameters = draw_parameters(index, self.images, self.recipe, generator)
            parameters = parameters.rows(mine).to(self.processes.device)
            halves.append(make_views(self.images, parameters, self.stage_pixels))
        x = (torch.cat(halves) - self._mean) / self._std
        return x.contiguous(memory_format=torch.channels_last)

    def step(self) -> dict[str, Tensor]:
        """One optimiser step on a global batch. Returns the loss terms and the spread of the projections."""
        progress = self.progress()
        self._enter_stage(self.recipe.stage_at(progress).pixels)
        learning_rate = self.learning_rate(progress)
        for group in self.run.optimizer.param_groups:
            group["lr"] = learning_rate
        index = self.batch_index()
        device = self.processes.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            outputs = _as_pairs(self._forward(self.views(index)), self.recipe.gather_features)
        if not self.recipe.gather_features:
            index = index[self.processes.share(len(index))]
        index = index.to(device)
        terms = self._terms(outputs, index, progress)
        self.run.optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        self.run.optimizer.step()
        if self.run.average is not None:
            self.run.average.update_parameters(self._network.encoder)
        self.run.step += 1
        mean = outputs.projections.detach().flatten(0, 1).mean(dim=0)
        terms["spread"] = 1 - mean.square().sum()
        terms["learning_rate"] = torch.tensor(learning_rate)
        return {name: value.detach() for name, value in terms.items()}

    def _terms(self, outputs: Outputs, index: Tensor, progress: float) -> dict[str, Tensor]:
        fine, coarse, target = (of[index] for of in (self.images.fine, self.images.coarse, self.images.target))
        terms = self._objective(outputs, fine, coarse)
        unused = 0 * outputs.coarse.sum()  # the baselines leave the coarse head without a gradient, which DDP forbids
        terms["total"] = (terms["total"] + unused) * self.recipe.objective_weight_at(progress)
        if outputs.fine is not None:
            logits = outputs.fine
            smoothing = self.recipe.label_smoothing
            wanted = target.repeat_interleave(2, dim=0)
            weight = self.images.weight[index].repeat_interleave(2)
            each = F.cross_entropy(logits.flatten(0, 1), wanted, label_smoothing=smoothing, reduction="none")
            terms["fine"] = (weight * each).sum() / weight.sum()
            terms["total"] = terms["total"] + self.recipe.fine_weight * terms["fine"]
            terms["fine_accuracy"] = (logits[:, 0].argmax(dim=1) == fine).float().mean()
        return terms

    def _enter_stage(self, pixels: int) -> None:
        if pixels != self.stage_pixels:
            self.stage_pixels = pixels
            resized = self.all_images.resized(math.ceil(pixels * _STORAGE_FACTOR))
            self.images = resized.to(self.processes.device)

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one; every process reads it."""
        checkpoint = self.out / CHECKPOINT_FILE
        line = f"no checkpoint in {self.out} yet: starting"
        if checkpoint_exists(checkpoint):
            line = self.run.load(checkpoint)
            self._saved_step = self.run.step
        if self.processes.is_first:
            print(line, file=sys.stderr, flush=True)
        if self.processes.any_of(self.processes.of_first(self.run.step) != self.run.step):
            raise TrainingError(f"the processes do not see the same checkpoint: {self.out} must be one folder for all")

    def train(self, stop: StopRequest, stop_after: float | None, checkpoint_minutes: float) -> bool:
        """Step until the schedule ends (True) or a stop is asked for (False); checkpoints and logs on the way."""
        self.out.mkdir(parents=True, exist_ok=True)
        log = Log(self.out, self.run.step) if self.processes.is_first else None
        try:
            finished = self._step_until(stop, stop_after, checkpoint_minutes, log)
        finally:
            if log:
                log.close()
        self._save()  # not after an error: a collapsed run keeps its last good checkpoint
        return finished

    def _step_until(
        self, stop: StopRequest, stop_after: float | None, checkpoint_minutes: float, log: Log | None
    ) -> bool:
        seconds_before, started = self.run.seconds, time.monotonic()
        saved_at = logged_at = started
        step_logged = self.run.step
        while self.progress() < 1:
            terms = self.step()
            now = time.monotonic()
            self.run.seconds = seconds_before + now - started
            if self.run.step % _LOG_EVERY == 0:
                values = {name: float(value) for name, value in terms.items()}
                progress = self.progress()  # all processes ask for it, though only the first writes the log
                self._give_up_if_collapsed(values, progress)
                rate = (self.run.step - step_logged) * self.recipe.batch_size / max(now - logged_at, 1e-9)
                logged_at, step_logged = now, self.run.step
                if log:
                    log.write(self.run, progress, self.stage_pixels, rate, values)
            if now - saved_at > 60 * checkpoint_minutes:
                saved_at = now
                self._save()
            asked = stop.asked or (stop_after is not None and now - started > 60 * stop_after)
            if self.processes.any_of(asked):
                return False
        return True

    def _give_up_if_collapsed(self, values: dict[str, float], progress: float) -> None:
        if not math.isfinite(values["total"]):
            raise TrainingError(f"the loss is {values['total']} at step {self.run.step}; try a lower learning rate")
        active = self.recipe.objective_weight_at(progress) > 0
        collapsed = active and values["spread"] < _COLLAPSED_SPREAD
        self._collapsed_logs = self._collapsed_logs + 1 if collapsed else 0
        if self._collapsed_logs >= _COLLAPSED_LOGS:
            raise TrainingError(
                f"collapsed at step {self.run.step}: all projections are equal (spread {values['spread']:.4f}, "
                f"1 = spread over the whole sphere); try a lower learning rate, a longer warm-up or a fine term"
            )

    def _save(self) -> None:
        if self.processes.is_first and self.run.step != self._saved_step:
            self.run.save(self.out / CHECKPOINT_FILE)
            self._saved_step = self.run.step

    def write_encoder(self) -> Path:
        """Write model.safetensors, config.json and training.json into `out`; only the first process writes."""
        if self.processes.is_first:
            average = self.run.average
            encoder = self._network.encoder if average is None else average.module
            if self.recipe.embedding_size:
                encoder = copy.deepcopy(encoder)
                self._narrow(encoder)
            written = save_folder(self.out, encoder.state_dict(), self.encoder_config())
            with whole_file(self.out / TRAINING_FILE) as path:
                record = {**self.record(), "weights_sha256": written.weights_sha256}
                path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return self.out

    def _narrow(self, encoder: nn.Module) -> None:
        """To the recipe's embedding_size, by the features of some thousand training images as they are."""
        some = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(0))[:_NARROWED_BY]
        encoder.eval()
        size = self.recipe.crop_size

        def features_of(rgb: Tensor) -> Tensor:
            pixels = rgb.to(self.processes.device) / 255
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
            return encoder((pixels - self._mean) / self._std)

        with torch.inference_mode():
            features = torch.cat([features_of(rgb) for rgb in self.images.pixels[some, :3].split(64)])
        narrow(encoder, features.float().cpu(), self.recipe.embedding_size)

    def record(self) -> dict[str, Any]:
        """What training.json will say: the recipe and what the run took, for the model card."""
        count = self.processes.count
        start = f"torchrun --nproc-per-node {count}" if count > 1 else "python"
        minutes = f" --minutes {self.minutes:g}" if self.minutes else ""
        return {
            "recipe": dataclasses.asdict(self.recipe),
            "command": f"{start} -m fergeneral.train --recipe {self.recipe.name} --data DATA --out OUT{minutes}",
            "minutes": round(self.run.seconds / 60, 1),
            "device": self.processes.machine(),
            "images": dict(Counter(name.partition("/")[0] for name in self.images.names)),
            "list_sha256": self.images.list_sha256(),
            "steps": self.run.step,
            "images_drawn": self.run.step * self.recipe.batch_size,
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"),
            "started_from": self.recipe.start_from or None,
            "history": _history(self.recipe.start_from),
        }

    def encoder_config(self) -> EncoderConfig:
        """What config.json will say of these weights."""
        recipe = self.recipe
        return EncoderConfig(
            model_id=recipe.name,
            architecture=recipe.architecture,
            embedding_size=recipe.embedding_size or self._network.embedding_size,
            crop_size=recipe.crop_size,
            training_data=tuple(f"{name} (train)" for name in recipe.datasets),
            license="research only, non-commercial: see the model card",
        )


def _optimizer(recipe: Recipe, network: nn.Module, *, fused: bool) -> torch.optim.Optimizer:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay, fused=fused)
    return torch.optim.SGD(
        network.parameters(),
        lr=rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=decay,
        fused=fused,
    )


def _history(start_from: str) -> list[dict[str, Any]]:
    """The runs before this one, oldest first: of each what its record says, but for the recipe, of which the name."""
    record = training_record(start_from) if start_from else None
    if record is None:
        return []
    before = record.get("history")
    if before is None:  # written by 0.3.0 or older
        before = _history(record.get("started_from") or "")
    fields = ("command", "minutes", "device", "images_drawn", "date", "started_from", "weights_sha256")
    return [*before, {"name": record["recipe"]["name"], **{field: record.get(field) for field in fields}}]


def _start(network: nn.Module, start_from: str) -> None:
    """Give `network` the weights of an encoder, or those in a .safetensors file, as far as they fit."""
    if start_from.endswith(".safetensors"):
        try:
            weights = load_file(start_from)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{start_from}, which the recipe starts from, cannot be read: {error}") from error
    else:
        weights = load_encoder(start_from, device="cpu").state_dict()
    wanted = network.state_dict()
    misfits = [name for name in wanted if name not in weights or weights[name].shape != wanted[name].shape]
    if misfits:
        shown = ", ".join(misfits[:3]) + (", ..." if len(misfits) > 3 else "")
        raise TrainingError(
            f"{start_from} does not hold the recipe's architecture: of {len(wanted)} tensors, {len(misfits)} are "
            f"missing or of another shape ({shown})"
        )
    network.load_state_dict({name: weights[name] for name in wanted})  # without a classifier that they may have


def _computes_bf16(device: torch.device) -> bool:
    """Whether bfloat16 pays there: a CPU without instructions for it is slower than with float32."""
    if device.type == "cpu":
        abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))
    return device.type == "cuda"


def _objective(recipe: Recipe) -> Callable[[Outputs, Tensor, Tensor], dict[str, Tensor]]:
    """The recipe's loss, from outputs, fine and coarse labels (B,) to its terms, `total` among them."""
    if recipe.objective == "crs-cont":
        crs_cont = CRSContLoss(recipe.temperature, recipe.class_weights, recipe.consistency_weight)
        return lambda outputs, fine, coarse: dict(vars(crs_cont(outputs.projections, outputs.coarse, coarse)))
    if recipe.objective == "simclr":
        simclr = SimCLR(recipe.temperature)
        return lambda outputs, fine, coarse: {"total": simclr(outputs.projections)}
    if recipe.objective == "supcon":
        supcon = SupCon(recipe.temperature)
        return lambda outputs, fine, coarse: {"total": supcon(outputs.projections, fine)}
    raise TrainingError(f"unknown objective {recipe.objective!r}; wanted 'crs-cont', 'simclr' or 'supcon'")


def _as_pairs(outputs: tuple[Tensor, ...], gathered: bool) -> Outputs:
    """Outputs (2n, ...), first views then second views -> (n, 2, ...) of this process or (B, 2, ...) of all."""
    pairs = [torch.stack(part.float().chunk(2), dim=1) for part in outputs]
    pairs = [gather(pair) for pair in pairs] if gathered else pairs
    return Outputs(pairs[0], pairs[1], pairs[2] if len(pairs) == 3 else None)


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a flag that is read between two steps; a second Ctrl-C interrupts at once.

    A second SIGTERM does not: a scheduler sends it to every process, and torchrun hands it on to them once more.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
