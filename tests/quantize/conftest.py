"""Models with random weights in files: bundles exported once for all tests, joint and isolated, and a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_models import CONFIGS, random_model

from quantize.export import export_bundle
from train.checkpoints import save_model
from train.models.seqtrack import SeqTrack


@pytest.fixture(scope="session", params=sorted(CONFIGS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[SeqTrack, Path]:
    """A model and the bundle that was made of it."""
    model = random_model(request.param)
    out = tmp_path_factory.mktemp(request.param) / "model"
    export_bundle(model, out, name=request.param, metadata={"training": {"step": 3}})
    return model, out


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the isolated model."""
    path = tmp_path_factory.mktemp("float") / "model.safetensors"
    save_model(path, random_model("isolated"))
    return path
