"""The training loop: on one process or many, resumable at any step with the losses of an uninterrupted run."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from train.checkpoints.averaging import summary
from train.checkpoints.files import (
    CheckpointError,
    differences,
    digest,
    read_tensors,
    refuse_quantised,
    save_model,
    whole,
    write_tensors,
)
from train.checkpoints.positions import at_resolution, with_slots
from train.data.pairs import Pair, PairDataset
from train.data.readers import titles
from train.distributed import Processes, processes
from train.evaluation import picture_sheet, validate
from train.log import RunLog
from train.objective import Objective, objective
from train.optimiser import build, learning_rate, set_learning_rate
from train.recipes import Recipe
from train.stopping import Stop, Stopped, leave_to_parent

STATE = "state.safetensors"
WEIGHTS = "model.safetensors"
PICTURES = "predictions.png"
RECIPE = "recipe.json"
RANDOM = "random"
"""The origin of weights that no file gave; of others it is their digest."""


class Share(Sampler[list[int]]):
    """The batches of one process from a step on.

    Each step's examples are cut into equal parts, one per process and part of an accumulated batch: together they are
    the same examples whatever the number of processes.
    """

    def __init__(self, recipe: Recipe, ranks: Processes, start: int) -> None:
        parts = ranks.count * recipe.accumulate
        if recipe.batch % parts:
            raise ValueError(f"batch is {recipe.batch}; expected a multiple of {parts}, processes times accumulate")
        self._size, self._recipe, self._ranks = recipe.batch // parts, recipe, ranks
        self._start = start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self._start, self._recipe.steps):
            for part in range(self._recipe.accumulate):
                first = step * self._recipe.batch + (part * self._ranks.count + self._ranks.rank) * self._size
                yield list(range(first, first + self._size))

    def __len__(self) -> int:
        return (self._recipe.steps - self._start) * self._recipe.accumulate


def fit(
    recipe: Recipe,
    train: Dataset[Pair],
    validation: PairDataset,
    out: Path,
    *,
    start: Path | None = None,
    data: Sequence[str | Path] = (),
    workers: int = 0,
    every: int = 500,
    compiled: bool = False,
    make: Callable[[Recipe], Objective] = objective,
) -> None:
    """Train to the recipe's last step, resuming from `out` when it holds a state. Under `torchrun` on all processes.

    Args:
        recipe: what is trained and how; `batch` is the joint batch of all processes.
        train, validation: datasets; `train` must hold recipe.steps * recipe.batch examples.
        out: folder of recipe.json, log.jsonl, predictions.png, state.safetensors and model.safetensors, the last with
            the averaged weights and, as training.before, the `history` of those it began from.
        start: weights to begin from, written by `save_model`; None for random ones. Not read by a run that goes on,
            but to see that they are those it began from; it may do without.
        data: the datasets' roots, as `train.data.mixture.datasets` takes them. A run goes on with folders of the same
            names, wherever they lie.
        workers: data-loading processes.
        every: steps between validations and checkpoints.
        compiled: train through `torch.compile`.
        make: the objective of the recipe.

    Raises:
        CheckpointError: `out` cannot be written to, or holds a run with other settings, but for its length, from other
            weights, on other data or that has done more steps; or `start` is no such weights.
        ValueError: the recipe freezes what would be random, or everything.
        FloatingPointError: the loss is not finite; the batch is in `out`.
        Stopped: it was interrupted or terminated, and saved; on one process.
    """
    with processes() as ranks:
        Run(recipe, out, ranks, start, make, data).train(
            train, validation, workers=workers, every=every, compiled=compiled
        )


def history(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was done to get the weights of a file with these `facts`, the earliest first.

    Each run by its number of steps and pairs, its hours, its recipe and what its weights were averaged with; weights
    from elsewhere by their source. Pairs and hours add up.
    """
    if "training" not in facts:
        return [{"source": facts["source"]}] if "source" in facts else []
    training = facts["training"]
    before = training.get("before", [])
    # seqtrack-nano's first weights name the one run before theirs without a list.
    return [*([before] if isinstance(before, dict) else before), {**summary(training), "recipe": facts.get("recipe")}]


class Run:
    """A run in progress: everything that a checkpoint holds."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        ranks: Processes,
        start: Path | None,
        make: Callable[[Recipe], Objective] = objective,
        data: Sequence[str | Path] = (),
    ) -> None:
        self.recipe, self.out, self.ranks = recipe, out, ranks
        torch.manual_seed(recipe.seed)
        self.objective = make(recipe).to(ranks.device)
        if not any(parameter.requires_grad for parameter in self.objective.parameters()):
            raise ValueError(f"the recipe keeps all of the model as it is ({recipe.freezes}); expected some to learn")
        self.evaluated = copy.deepcopy(self.objective.model)
        self.before: list[dict[str, Any]] = []
        self.origin: str | None = RANDOM
        self.data = titles(data)
        resumed = (out / STATE).is_file()
        if start is not None and not resumed:
            self._begin_from(start)
        elif recipe.freezes and not resumed:
            raise ValueError(
                f"the recipe keeps parts of the model as they begin ({recipe.freezes}), and they would begin random; "
                "give --start with trained weights, such as those in train/weights or of python -m train import, or "
                "let all of it learn with --set frozen=[] --set encoder_lr=1"
            )
        self.average = {name: t.detach().clone() for name, t in self.objective.model.state_dict().items()}
        self.optimiser = build(self.objective, recipe)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=recipe.precision == "fp16")
        self.step, self.saved, self.seconds = 0, 0, 0.0
        self.record: dict[str, float | None] = {}
        self.since, self.logged = torch.zeros(len(self.objective.losses)), 0
        """The sum of each loss over the steps since the last record of the log, and the step of that."""
        if resumed:
            self._check_recipe()
            self._restore(start)

    def train(self, train: Dataset[Pair], validation: PairDataset, *, workers: int, every: int, compiled: bool) -> None:
        recipe, ranks = self.recipe, self.ranks
        if ranks.is_first:
            with whole(self.out / RECIPE) as path:  # a folder that cannot be written to is found before the first step
                path.write_text(json.dumps(recipe.to_dict(), indent=2) + "\n")
            if self.step and not self._weights_are_written():
                self._save_weights()
            if not self.step:
                # What is wrong with boxes is seen there, before hours are spent on them.
                self.evaluated.load_state_dict(self.average)
                picture_sheet(self.evaluated, validation, self.out / PICTURES, ranks.device)
        ranks.wait()
        loader = DataLoader(
            train,
            batch_sampler=Share(recipe, ranks, self.step),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            pin_memory=ranks.device.type == "cuda",
            worker_init_fn=leave_to_parent,
        )
        validation_loader = DataLoader(validation, 64)
        module = ranks.wrap(self.objective)
        if compiled:
            module.compile()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        names = self.objective.losses
        began = time.perf_counter() - self.seconds
        batches = iter(loader)
        with (
            Progress(*columns, console=Console(stderr=True), disable=not ranks.is_first) as progress,
            RunLog(self.out, self.step) if ranks.is_first else nullcontext() as log,
            # Of several processes each would stop at another step, and wait for the others.
            Stop(enabled=ranks.count == 1) as stop,
        ):
            task = progress.add_task("train", total=recipe.steps, completed=self.step)
            while self.step < recipe.steps:
                if stop.number is not None:
                    self._stop(stop.number, time.perf_counter() - began)
                parts = [self._to_device(next(batches)) for _ in range(recipe.accumulate)]
                losses = self._update(module, parts)
                self.since += losses
                progress.update(task, completed=self.step, description=f"train, loss {losses.sum().item():.3f}")
                if self.step % every and self.step != recipe.steps:
                    continue
                self.seconds = time.perf_counter() - began
                means = (self.since / (self.step - self.logged)).tolist()
                self.since.zero_()
                self.logged = self.step
                if log is not None:
                    self.evaluated.load_state_dict(self.average)
                    measured = validate(self.evaluated, validation_loader, ranks.device)
                    self.record = {
                        **self._progress(),
                        **{name: round(mean, 4) for name, mean in zip(names, means, strict=True)},
                        **{name: round(v, 4) if math.isfinite(v) else None for name, v in measured.items()},
                    }
                    log.write(self.record)
                    picture_sheet(self.evaluated, validation, self.out / PICTURES, ranks.device)
                    self._save()
                ranks.wait()

    def _stop(self, number: int, seconds: float) -> NoReturn:
        """Save what was learned since the last checkpoint, which is measured when it is next due."""
        if self.step > self.saved:
            self.seconds = seconds
            self.record = self._progress()
            self._save()
        saved = f", which is saved in {self.out}; the same command goes on from there" if self.step else ""
        raise Stopped(f"stopped at step {self.step} of {self.recipe.steps}{saved}", number)

    def _progress(self) -> dict[str, float | None]:
        pairs, hours = self.step * self.recipe.batch, round(self.seconds / 3600, 3)
        return {"step": self.step, "pairs": pairs, "hours": hours}

    def _to_device(self, batch: list[Tensor]) -> Pair:
        return Pair(*(tensor.to(self.ranks.device, non_blocking=True) for tensor in batch))

    def _update(self, module: nn.Module, parts: list[Pair]) -> Tensor:
        """One step of the optimiser on the joint batch; returns the terms of the loss on the CPU."""
        recipe, ranks = self.recipe, self.ranks
        # What dropout draws depends on the step and the process alone: a resumed run draws the same.
        torch.manual_seed(int(np.random.SeedSequence((recipe.seed, ranks.rank, self.step)).generate_state(1)[0]))
        module.train()
        set_learning_rate(self.optimiser, learning_rate(recipe, self.step))
        counts = torch.stack([self.objective.counts(pair) for pair in parts]).sum(0)
        counts = ranks.total(counts)
        losses = torch.zeros(len(self.objective.losses), device=ranks.device)
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[recipe.precision]
        for index, pair in enumerate(parts):
            last = index == len(parts) - 1
            hold = nullcontext() if last or ranks.count == 1 else module.no_sync()
            with hold:
                with torch.autocast(ranks.device.type, dtype, enabled=recipe.precision != "fp32"):
                    total, means = module(pair, counts)
                if not torch.isfinite(total):
                    self._refuse(pair)
                # Processes average their gradients; the losses are already divided by joint counts, so undo it.
                self.scaler.scale(total * ranks.count).backward()
            losses[: len(means)] += means
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.objective.parameters(), recipe.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad()
        self.step += 1
        decay = min(recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, tensor in self.objective.model.state_dict().items():
                self.average[name].lerp_(tensor, 1 - decay)
        return ranks.total(losses).cpu()

    def _refuse(self, pair: Pair) -> None:
        path = self.out / f"failed_batch_{self.ranks.rank}.safetensors"
        write_tensors(path, pair._asdict(), {"step": self.step})
        raise FloatingPointError(f"the loss is not finite at step {self.step}; the batch is in {path}")

    def _save(self) -> None:
        """Write the state, then the averaged weights: each whole or not at all. A run stopped in between writes the
        weights when it goes on."""
        tensors = {f"objective.{name}": tensor for name, tensor in self.objective.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "record": self.record,
            "since": self.since.tolist(),
            "logged": self.logged,
            "before": self.before,
            "origin": self.origin,
            "data": self.data,
            "scaler": self.scaler.state_dict(),
        }
        write_tensors(self.out / STATE, tensors, facts)
        self.saved = self.step
        self._save_weights()

    def _save_weights(self) -> None:
        training = {**self.record, "before": self.before, "data": self.data}
        facts = {"training": training, "recipe": self.recipe.to_dict(), **self.objective.facts}
        save_model(self.out / WEIGHTS, self.objective.model, self.average, **facts)

    def _weights_are_written(self) -> bool:
        """Whether the file of weights is there, and of this step."""
        path = self.out / WEIGHTS
        return path.is_file() and read_tensors(path)[1].get("training", {}).get("step") == self.step

    def _begin_from(self, start: Path) -> None:
        """Take weights, perhaps of other crop sizes or without template slots, and what was done to get them. Raises
        CheckpointError where they are another model's."""
        tensors, facts = read_tensors(start)
        self.origin = digest(tensors)
        expected = self.objective.model.state_dict()
        tensors = with_slots(at_resolution(tensors, expected), expected)
        if problems := differences(tensors, expected):
            refuse_quantised(start, facts)
            raise CheckpointError(f"{start} does not fit the recipe's model: {'; '.join(problems[:5])}")
        self.objective.model.load_state_dict(tensors)
        self.before = history(facts)

    def _check_recipe(self) -> None:
        """A run goes on as it was begun; only its length may change. Raises CheckpointError."""
        path, asked = self.out / RECIPE, json.loads(json.dumps(self.recipe.to_dict()))
        try:
            begun = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); expected the settings of the run beside it. Put it back, or give "
                "another --out"
            ) from error
        differ = [key for key in asked if key not in ("steps", "decay") and begun.get(key, asked[key]) != asked[key]]
        if differ:
            was = "; ".join(f"{key} was {begun[key]}, now {asked[key]}" for key in differ)
            raise CheckpointError(f"{self.out} holds a run with other settings: {was}. Give those, or another --out")

    def _check_begun(self, facts: Mapping[str, Any], start: Path | None) -> None:
        """A run goes on from the weights and on the data that it was begun with. Raises CheckpointError."""
        if facts["step"] > self.recipe.steps:
            raise CheckpointError(
                f"{self.out} holds a run that has done {facts['step']} steps; got steps={self.recipe.steps}, expected "
                "at least as many. Give those, or another --out"
            )
        if (begun := facts.get("data", self.data)) != self.data:
            was, now = (", ".join(titles) or "none" for titles in (begun, self.data))
            raise CheckpointError(
                f"{self.out} holds a run on other data: it was {was}, now {now}. Give the same, or another --out, with "
                f"--start {self.out / WEIGHTS} to begin from its weights"
            )
        # A file that is gone since is not needed any more.
        if start is None or not start.is_file() or facts.get("origin") is None:
            return
        if digest(read_tensors(start)[0]) != facts["origin"]:
            raise CheckpointError(
                f"{self.out} holds a run that began from other weights than those in {start}. Leave --start out to go "
                "on with it, or give another --out"
            )

    def _restore(self, start: Path | None) -> None:
        tensors, facts = read_tensors(self.out / STATE)
        self._check_begun(facts, start)

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

        self.objective.load_state_dict(part("objective."))
        for name, tensor in part("average.").items():
            self.average[name].copy_(tensor)
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in part("optimiser.").items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = tensor
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.scaler.load_state_dict(facts["scaler"])
        self.step, self.saved, self.seconds = facts["step"], facts["step"], facts["seconds"]
        # Runs begun earlier do not have all of these; what they measured is in their log alone, and the first record
        # after an interruption is of the steps since.
        self.logged = facts.get("logged", self.step)
        if "since" in facts:
            self.since = torch.tensor(facts["since"])
        self.before, self.origin = facts.get("before", []), facts.get("origin")
        self.record = facts.get("record", self._progress())
