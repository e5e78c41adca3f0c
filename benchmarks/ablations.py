"""What each choice of a recipe is worth: models trained alike but for one setting, tracked with on a dataset.

Some rows are another use of the same weights: a row without the window on the centre, one without template updates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.accuracy import evaluate
from benchmarks.contenders import Spec
from benchmarks.datasets import Dataset
from benchmarks.protocols import require_auc
from benchmarks.results import ResultsError

if TYPE_CHECKING:
    from train.recipes import Recipe


@dataclass(frozen=True)
class Ablation:
    """One row.

    Attributes:
        title: what is different from the recipe as it is.
        weights: names the trained model; rows that share it differ in how it is used.
        settings: of the recipe, as for ``python -m train fit --set``.
        online: of `benchmarks.contenders.Spec`.
    """

    title: str
    weights: str
    settings: tuple[str, ...] = ()
    online: dict[str, Any] = field(default_factory=dict)


BASE = ("frozen=[]", "encoder_lr=1", "model.templates=1", "model.template_slots=false")
"""The recipe of all rows: all of the model learns, since it begins from nothing, and from one template."""
UPDATED = {"update_interval": 25, "update_threshold": 0.0}
"""Whatever the likelihood: a short training's never reaches the paper's threshold."""
ABLATIONS = (
    Ablation("the recipe as it is", "as-is"),
    Ablation("no window on the centre", "as-is", online={"window": 0.0}),
    Ablation("bidirectional decoding", "bidirectional", ("model.decoding=bidirectional",)),
    Ablation("joint attention", "joint", ("model.template_attention=joint",)),
    Ablation("separate encoders", "separate", ("model.template_attention=separate", "model.memory=xz")),
    Ablation("hard targets", "hard", ("sigma=0",)),
    Ablation("no auxiliary loss", "no-dense", ("dense=0",)),
    Ablation("two templates, updated every 25 frames", "two", ("model.templates=2",), UPDATED),
    Ablation("two templates, never updated", "two", ("model.templates=2",), {"update_interval": 0}),
)


def ablate(
    recipe: str,
    roots: Sequence[str],
    dataset: Dataset,
    out: Path,
    *,
    settings: Sequence[str] = (),
    threads: int = 1,
    advance: Callable[[str], object] = lambda title: None,
) -> dict[str, Any]:
    """Train and track with every row of `ABLATIONS`; what is in `out` already is not done again, and a run that was
    broken off goes on.

    Args:
        recipe: of a SeqTrack.
        roots: datasets to train on.
        dataset: to track on.
        settings: of all rows, such as ``steps=800``.

    Returns:
        JSON values: the settings of all, and for each row the dataset's metrics and what the trained model reaches on
        held-out pairs.

    Raises:
        ResultsError: the recipe, a setting or a folder of data is none, the dataset has no AUC, or a run in `out` is
            another than what is asked for, has done more steps, or came to nothing.
        train.stopping.Stopped: a training was interrupted or terminated, and saved.
    """
    import torch

    from train.checkpoints import CheckpointError
    from train.data.labels import DatasetError
    from train.data.mixture import datasets
    from train.loop import WEIGHTS, fit

    require_auc(dataset.name, dataset.protocol)
    recipes = [_recipe(recipe, [*BASE, *settings, *ablation.settings]) for ablation in ABLATIONS]
    torch.set_num_threads(threads)
    rows = []
    for ablation, chosen in zip(ABLATIONS, recipes, strict=True):
        advance(ablation.title)
        folder = out / "runs" / ablation.weights
        try:
            fit(chosen, *datasets(chosen, roots), folder, data=roots, workers=1, every=max(1, chosen.steps // 4))
        except (CheckpointError, DatasetError, FloatingPointError, TypeError, ValueError) as error:
            raise ResultsError(str(error)) from None
        spec = Spec(str(folder / WEIGHTS), "cpu", threads=threads, **ablation.online)
        scores, _ = evaluate(spec, dataset, out)
        trained = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
        rows.append(
            {
                "title": ablation.title,
                "settings": list(ablation.settings),
                "online": ablation.online,
                "metrics": scores.metrics,
                "held_out": {key: trained[key] for key in ("iou", "sr50", "auroc")},
            }
        )
    return {
        "recipe": recipe,
        "settings": list(settings),
        "pairs": trained["pairs"],
        "dataset": {"name": dataset.name, "sequences": len(dataset.sequences)},
        "rows": rows,
    }


def _recipe(name: str, settings: Sequence[str]) -> Recipe:
    """A SeqTrack's recipe with settings; raises ResultsError where it is none, or they do not fit it."""
    from train.models.seqtrack import SeqTrackConfig
    from train.recipes import RECIPES, override

    known = [each for each, recipe in RECIPES.items() if isinstance(recipe.model, SeqTrackConfig)]
    if name not in known:
        raise ResultsError(f"{name!r} is no recipe of a SeqTrack; expected one of {', '.join(known)}")
    try:
        return override(RECIPES[name], list(settings))
    except (TypeError, ValueError) as error:
        raise ResultsError(str(error)) from None
