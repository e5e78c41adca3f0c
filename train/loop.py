"""The training loop: one process, resumable at any step, with the same losses as if it had never stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from edgetrack.imaging import IMAGENET_MEAN, IMAGENET_STD
from train.checkpoints.files import read_tensors, save_model, write_tensors
from train.data.pairs import Pair
from train.losses import box_tokens, dense_loss, in_order, sequence_loss
from train.models.seqtrack import SeqTrack
from train.recipes import Recipe

STATE = "state.safetensors"
WEIGHTS = "model.safetensors"


class From(Sampler[int]):
    """Indices in order, from `start`."""

    def __init__(self, start: int, stop: int) -> None:
        self._range = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self._range)

    def __len__(self) -> int:
        return len(self._range)


def normalised(images: Tensor) -> Tensor:
    """uint8 BGR (..., H, W, 3) -> RGB float (..., 3, H, W), as `edgetrack.imaging.normalise` does for one image."""
    scale = torch.tensor([1 / (255 * s) for s in IMAGENET_STD], device=images.device)
    shift = torch.tensor([-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)], device=images.device)
    return (images.flip(-1) * scale + shift).movedim(-1, -3)


class TrainingModel(nn.Module):
    """The model and what only training needs: the head of the dense auxiliary loss."""

    def __init__(self, model: SeqTrack) -> None:
        super().__init__()
        self.model = model
        self.dense = nn.Linear(model.config.encoder_dim, 5)

    def forward(self, pair: Pair, recipe: Recipe) -> dict[str, Tensor]:
        """The losses of a batch: coordinates, absent, dense and their weighted sum, total."""
        model = self.model
        boxes = in_order(pair.box, model.config.order)
        start = torch.full((len(boxes), 1), model.decoder.start, device=boxes.device)
        sequence = torch.cat([start, box_tokens(boxes, model.config.bins)[:, :3]], 1)  # (B, 4)
        tokens = model.encode(normalised(pair.templates), normalised(pair.search))
        coordinates, absent = sequence_loss(model.logits(tokens, sequence), boxes, pair.present, sigma=recipe.sigma)
        dense = dense_loss(self.dense(tokens[:, : model.config.search_tokens]), pair.box, pair.present)
        total = coordinates + recipe.absent * absent + recipe.dense * dense
        return {"total": total, "coordinates": coordinates, "absent": absent, "dense": dense}


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (B,) of boxes (B, 4) in cx, cy, w, h."""
    low = torch.maximum(a[:, :2] - a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2)
    high = torch.minimum(a[:, :2] + a[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    intersection = (high - low).clamp(min=0).prod(1)
    return intersection / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - intersection).clamp(min=1e-9)


@torch.inference_mode()
def validate(model: SeqTrack, loader: DataLoader[Pair]) -> dict[str, float]:
    """Greedy decoding on held-out pairs: mean overlap, share above 0.5, and AUROC of presence against absence."""
    model.eval()
    overlaps, presence, labels = [], [], []
    for pair in loader:
        tokens = model.encode(normalised(pair.templates), normalised(pair.search))
        ids, _, p = model.decoder.generate(*model.project_memory(tokens), order=model.config.order)
        boxes = in_order(ids / (model.config.bins - 1), model.config.order)
        overlaps.append(iou(boxes, pair.box)[pair.present])
        presence.append(p)
        labels.append(pair.present)
    overlap, p, label = torch.cat(overlaps), torch.cat(presence), torch.cat(labels)
    auroc = (p[label][:, None] > p[~label]).float().mean().item()
    return {"iou": overlap.mean().item(), "sr50": (overlap > 0.5).float().mean().item(), "auroc": auroc}


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, constant, linear decay to zero over the last `decay` steps."""
    return recipe.lr * min(1.0, (step + 1) / recipe.warmup, (recipe.steps - step) / recipe.decay)


def fit(
    recipe: Recipe,
    train: Dataset[Pair],
    validation: Dataset[Pair],
    out: Path,
    *,
    start: Path | None,
    workers: int,
    every: int,
) -> None:
    """Train to the recipe's last step, resuming from `out` when it holds a state.

    Args:
        train, validation: datasets; `train` must hold recipe.steps * recipe.batch examples.
        out: folder of recipe.json, log.jsonl, state.safetensors and model.safetensors (the averaged weights).
        start: weights to begin from, written by `save_model`; None for random ones.
        workers: data-loading processes.
        every: steps between validations and checkpoints.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    evaluated = SeqTrack(recipe.model).to(device)
    trainer = TrainingModel(SeqTrack(recipe.model)).to(device)
    if start is not None:
        trainer.model.load_state_dict(read_tensors(start)[0])
    average = {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}
    decayed = [p for p in trainer.parameters() if p.dim() > 1]
    others = [p for p in trainer.parameters() if p.dim() <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.lr,
        betas=(0.9, 0.98),
    )
    step, seconds = 0, 0.0
    if (out / STATE).is_file():
        step, seconds = _restore(out / STATE, trainer, average, optimiser)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(recipe.to_dict(), indent=2) + "\n")
    loader = DataLoader(
        train,
        recipe.batch,
        sampler=From(step * recipe.batch, recipe.steps * recipe.batch),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        drop_last=True,
        # Left to itself a loader draws from the generator that dropout uses, at other times in a resumed run.
        generator=torch.Generator(),
    )
    validation_loader = DataLoader(validation, recipe.batch, generator=torch.Generator())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    totals: dict[str, float] = {}
    began = time.perf_counter()
    with Progress(*columns, console=Console(stderr=True)) as progress, (out / "log.jsonl").open("a") as log:
        task = progress.add_task("train", total=recipe.steps, completed=step)
        for batch in loader:
            pair = Pair(*(tensor.to(device, non_blocking=True) for tensor in batch))
            trainer.train()
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(recipe, step)
            with torch.autocast(device.type, torch.bfloat16):
                losses = trainer(pair, recipe)
            if not torch.isfinite(losses["total"]):
                write_tensors(out / "failed_batch.safetensors", pair._asdict(), {"step": step})
                raise FloatingPointError(
                    f"the loss is not finite at step {step}; the batch is in {out / 'failed_batch.safetensors'}"
                )
            losses["total"].backward()
            nn.utils.clip_grad_norm_(trainer.parameters(), recipe.clip)
            optimiser.step()
            optimiser.zero_grad()
            step += 1
            decay = min(recipe.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                for name, tensor in trainer.model.state_dict().items():
                    average[name].lerp_(tensor, 1 - decay)
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0.0) + loss.item()
            progress.update(task, completed=step, description=f"train, loss {losses['total'].item():.3f}")
            if step % every == 0 or step == recipe.steps:
                evaluated.load_state_dict(average)
                spent = seconds + time.perf_counter() - began
                record = {
                    "step": step,
                    "pairs": step * recipe.batch,
                    "hours": round(spent / 3600, 3),
                    **{name: round(total / (step % every or every), 4) for name, total in totals.items()},
                    **{name: round(value, 4) for name, value in validate(evaluated, validation_loader).items()},
                }
                totals = {}
                log.write(json.dumps(record) + "\n")
                log.flush()
                _save(out / STATE, trainer, average, optimiser, step, spent)
                save_model(out / WEIGHTS, trainer.model, average, training=record, recipe=recipe.to_dict())


def _save(
    path: Path,
    trainer: TrainingModel,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    tensors = {f"trainer.{name}": tensor for name, tensor in trainer.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
    tensors["rng"] = torch.get_rng_state()
    write_tensors(path, tensors, {"step": step, "seconds": seconds})


def _restore(
    path: Path, trainer: TrainingModel, average: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> tuple[int, float]:
    """Load what `_save` wrote, into the arguments; returns the step and the seconds trained so far."""
    tensors, metadata = read_tensors(path)

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    trainer.load_state_dict(part("trainer."))
    for name, tensor in part("average.").items():
        average[name].copy_(tensor)
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in part("optimiser.").items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["rng"])
    return metadata["step"], metadata["seconds"]
