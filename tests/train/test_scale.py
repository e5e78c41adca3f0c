"""Many processes, parts of a batch, less memory: none of them changes what is learnt."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import default_collate

from train.checkpoints import read_tensors
from train.data.mixture import datasets
from train.data.pairs import Pair
from train.distributed import Processes
from train.loop import Run, Share
from train.models.seqtrack import SeqTrackConfig
from train.objective import objective
from train.recipes import RECIPES, Recipe

TINY = SeqTrackConfig(
    search_size=32,
    template_size=32,
    templates=1,
    encoder_dim=16,
    encoder_depth=2,
    encoder_heads=2,
    decoder_dim=16,
    decoder_heads=2,
    decoder_ffn=16,
    dropout=0.0,
    bins=20,
)
RECIPE = Recipe(TINY, batch=8, steps=2, warmup=1, decay=1, precision="fp32", end_weight=0.01)
ALONE = Processes(0, 1, torch.device("cpu"))


def gradients(recipe: Recipe, parts: int) -> dict[str, torch.Tensor]:
    """Gradients of the first joint batch, cut into parts."""
    torch.manual_seed(0)
    trained = objective(recipe)
    train, _ = datasets(recipe, [])
    size = recipe.batch // parts
    batches = [Pair(*default_collate([train[i] for i in range(p * size, (p + 1) * size)])) for p in range(parts)]
    counts = torch.stack([trained.counts(pair) for pair in batches]).sum(0)
    for pair in batches:
        trained(pair, counts)[0].backward()
    return {name: p.grad for name, p in trained.named_parameters() if p.grad is not None}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6)


def test_parts_of_a_batch_have_the_gradient_of_the_whole() -> None:
    assert_same(gradients(RECIPE, 4), gradients(RECIPE, 1))


def test_computing_activations_again_changes_nothing() -> None:
    assert_same(gradients(replace(RECIPE, recompute=True), 1), gradients(RECIPE, 1))


def test_processes_and_parts_see_the_examples_of_one_process() -> None:
    def seen(count: int, accumulate: int) -> list[list[int]]:
        recipe = replace(RECIPE, accumulate=accumulate)
        shares = [list(Share(recipe, Processes(r, count, torch.device("cpu")), 1)) for r in range(count)]
        steps = len(shares[0]) // accumulate
        return [
            sorted(i for share in shares for part in share[s * accumulate : (s + 1) * accumulate] for i in part)
            for s in range(steps)
        ]

    assert seen(1, 1) == [list(range(8, 16))]
    assert seen(2, 1) == seen(1, 4) == seen(2, 2) == seen(1, 1)
    with pytest.raises(ValueError, match="multiple of 3"):
        Share(RECIPE, Processes(0, 3, torch.device("cpu")), 0)


SCRIPT = """
import sys, torch
from pathlib import Path
from train.recipes import Recipe
from train.data.mixture import datasets
from train.loop import fit
import json
torch.set_num_threads(1)
recipe = Recipe.from_dict(json.loads(sys.argv[1]))
train, validation = datasets(recipe, [], validation_pairs=4)
fit(recipe, train, validation, Path(sys.argv[2]), every=2)
"""


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    def start(out: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).parents[2])
        paths = os.pathsep.join([root, os.path.join(root, "runtimes")])
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, json.dumps(RECIPE.to_dict()), str(out)],
            env={**os.environ, "PYTHONPATH": paths, **environment},
            stderr=subprocess.PIPE,
        )

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pair = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    together = [start(tmp_path / "two", {**pair, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(2)]
    alone = start(tmp_path / "one", {})
    for process in (*together, alone):
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()
    one, two = (read_tensors(tmp_path / name / "state.safetensors")[0] for name in ("one", "two"))
    for name in one:
        if name.startswith("objective."):
            # Where a gradient is next to nothing, the optimiser's sign-like step is one of its rounding.
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=5e-5)
    moments = [name for name in one if name.endswith(".exp_avg")]
    assert moments
    for name in moments:  # what the gradients were, before the optimiser's sign-like step hides their size
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("rank", [0, 1])
def test_every_process_of_a_resumed_run_drops_what_it_would_have(rank: int, tmp_path: Path) -> None:
    recipe = replace(RECIPE, model=replace(TINY, dropout=0.3), steps=4)
    process = Processes(rank, 1, torch.device("cpu"))
    train, _ = datasets(recipe, [])
    batch = Pair(*default_collate([train[i] for i in range(8)]))
    whole = Run(recipe, tmp_path, process, None)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_dict()))
    for step in range(4):
        whole._update(whole.objective, [batch])
        if step == 1:
            whole._save()
    torch.rand(7)  # whatever else was drawn meanwhile
    parts = Run(recipe, tmp_path, process, None)
    for _ in range(2):
        parts._update(parts.objective, [batch])
    expected, found = (run.objective.state_dict() for run in (whole, parts))
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_processes_and_steps_drop_differently(tmp_path: Path) -> None:
    recipe = replace(RECIPE, model=replace(TINY, dropout=0.3), lr=0.0)
    train, _ = datasets(recipe, [])
    batch = Pair(*default_collate([train[i] for i in range(8)]))
    runs = [Run(recipe, tmp_path, Processes(rank, 1, torch.device("cpu")), None) for rank in (0, 1)]
    losses = {tuple(run._update(run.objective, [batch]).tolist()) for run in runs for _ in range(2)}
    assert len(losses) == 4


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_takes_a_step(precision: str, tmp_path: Path) -> None:
    recipe = replace(RECIPE, precision=precision)
    train, _ = datasets(recipe, [])
    run = Run(recipe, tmp_path, ALONE, None)
    before = {name: t.clone() for name, t in run.objective.state_dict().items()}
    batch = Pair(*default_collate([train[i] for i in range(8)]))
    for _ in range(12 if precision == "fp16" else 1):  # a scaled loss that overflows is halved until it does not
        assert torch.isfinite(run._update(run.objective, [batch])).all()
    assert any(not torch.equal(t, before[name]) for name, t in run.objective.state_dict().items())


def test_the_papers_recipes_are_the_papers() -> None:
    recipe = RECIPES["seqtrack-b256"]
    assert recipe.steps * recipe.batch == 500 * 60_000
    assert recipe.decay * recipe.batch == 100 * 60_000
    assert RECIPES["seqtrack-l384-got"].steps * RECIPES["seqtrack-l384-got"].batch == 500 * 30_000
    small = replace(recipe, model=replace(TINY, templates=2), steps=500, decay=100)
    run = Run(small, Path("nowhere"), ALONE, None)
    rates = {(g["lr"] * g["factor"], g["weight_decay"]) for g in run.optimiser.param_groups}
    assert rates == {(1e-5, 1e-4), (1e-4, 1e-4)}
    from train.optimiser import learning_rate

    assert [learning_rate(small, s) for s in (0, 399, 400, 499)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])
