"""SeqTrack online: from a frame and the last box to the next box, with the template update of the official tracker."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgetrack.decoding import Decoded, averaged, box_to_tokens, greedy_decode, hanning_window, resized, tokens_to_box
from edgetrack.errors import OptionError
from edgetrack.illumination import Illumination, illumination, lighting_factors, relit
from edgetrack.imaging import box_to_crop, clip_box, crop_square, crop_to_box, normalise, rescaled
from edgetrack.online import Clock, Estimate
from edgetrack.scoring import calibrated_score

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgetrack.bundle import CropSettings, LikelihoodScore, OverlapScore
    from edgetrack.model import Model
    from edgetrack_runtimes import DeviceTensor

GRAPHS = {"fused": ("template", "track"), "cached": ("template", "encode", "decode_step")}
"""The graphs that each way of decoding runs."""
SURE = 0.9
"""The least score, if it is a probability, of a frame that a template is taken from: a wrong one misleads for long, and
of a right one there is another chance soon."""


class Settings(NamedTuple):
    """What a user may choose of the online algorithm; see `edgetrack.bundle.OnlineSettings`."""

    window: float
    update_interval: int | None
    update_threshold: float
    only_sure: bool = False
    """Whether a template is taken only where the score reaches the manifest's threshold, too, and, if it is
    calibrated, `SURE`."""
    hold_size: bool = False
    """Whether the region that is searched keeps its size while the score is below the manifest's threshold: a tracker
    that sees nothing answers ever smaller boxes, and would soon look at nothing. Its centre moves on, because a low
    score does not make a box wrong."""
    size_change: float = 0.0
    """How much a target's width and height change from frame to frame, see `edgetrack.decoding.resized`; 0 leaves it
    open, as the official tracker does."""
    mean_within: float = 0.0
    """How much of a token's distribution is averaged over for its value, see `edgetrack.decoding.averaged`; 0 takes the
    chosen tokens, as the official tracker does."""
    match_illumination: bool = False
    """Whether crops are brought to the illumination of the first frame, see `edgetrack.illumination`; the official
    tracker takes them as they are."""


@dataclass(frozen=True, eq=False)
class State:
    """Where the target is and what it looks like.

    Attributes:
        box: float64 (4,), (x, y, w, h) in pixels of the last frame.
        region: float64 (4,), the box around which the next frame is searched: `box`, unless its size is held.
        templates: T normalised crops (St, St, 3); the first is the one from `init` and is never replaced.
        template_state: the outputs of the `template` graph for them, on the device of the session they are fed to.
        frame: number of the last frame; 0 at `init`.
        score: of the last frame; 1 at `init`, where the target is given.
        illumination: the first frame's; None where crops are taken as they are.
        history: the boxes of the last frames, oldest first, as many as the model's prompt has; none where it has none.
    """

    box: NDArray[np.float64]
    region: NDArray[np.float64]
    templates: tuple[NDArray[np.float32], ...]
    template_state: Mapping[str, DeviceTensor]
    frame: int
    score: float
    illumination: Illumination | None
    history: tuple[NDArray[np.float64], ...] = ()

    def rescaled(self, factor: NDArray[np.float64]) -> State:
        """The same target in a frame of another size; see `edgetrack.online.State`."""
        box, region, *history = (rescaled(each, factor) for each in (self.box, self.region, *self.history))
        return replace(self, box=box, region=region, history=tuple(history))


class SeqTrack:
    """The online algorithm on one model. Safe to share: nothing here changes after construction.

    Opens every graph that it will run, so that a backend that cannot run one says so here and not at a later frame.
    """

    def __init__(self, model: Model, decode: str, settings: Settings) -> None:
        manifest = model.manifest
        if manifest.kind != "seqtrack":
            raise OptionError(f"got {manifest.name!r}, of kind {manifest.kind!r}; expected a model of kind 'seqtrack'")
        self._manifest = manifest
        self._settings = settings
        self._template = model.session("template")
        if decode == "fused":
            self._search, self._step = model.session("track"), None
        else:
            self._search, self._step = model.session("encode"), model.session("decode_step")
        self._window = hanning_window(settings.window, self._manifest.decoder.bins)
        self._least = least_score(manifest.score) if settings.only_sure else 0.0

    def init(self, frame: NDArray[np.uint8], box: NDArray[np.float64]) -> State:
        """Take the target from `frame` at `box`: all template slots hold the same crop."""
        first = illumination(frame) if self._settings.match_illumination else None
        crop, _ = self._crop(frame, box, self._manifest.preprocessing.template, np.ones(3))
        templates = (crop,) * self._manifest.templates
        box = box.copy()  # the caller may go on to change the array
        history = (box,) * self._manifest.decoder.prompt_frames
        return State(box, box, templates, self._encode_templates(templates), 0, 1.0, first, history)

    def step(self, state: State, frame: NDArray[np.uint8]) -> tuple[State, Estimate]:
        """Find the target of `state` in `frame`."""
        manifest, clock = self._manifest, Clock()
        frame_size = (frame.shape[1], frame.shape[0])
        factors = lighting_factors(state.illumination, frame)
        search, scale = self._crop(frame, state.region, manifest.preprocessing.search, factors)
        clock.lap("crop")
        decoded = self._decode(search[None], state.template_state, self._prompt(state, scale))
        clock.lap("graph")
        evidence = 0.0
        if self._settings.size_change:
            size = box_to_crop(state.region, state.region, scale, manifest.preprocessing.search.size)[2:]
            decoded, evidence = resized(decoded, size, self._settings.size_change, manifest.decoder.order)
        if self._settings.mean_within:
            decoded = averaged(decoded, self._settings.mean_within)
        cxcywh = tokens_to_box(decoded.tokens, manifest.decoder.bins, manifest.decoder.order)
        box = crop_to_box(cxcywh, state.region, scale, manifest.preprocessing.search.size)
        box = clip_box(box, frame_size, manifest.online.clip_margin)
        likelihood = float(decoded.likelihoods.mean())
        score = calibrated_score(manifest.score, decoded, manifest.decoder.order, state.score, evidence)
        clock.lap("postprocess")
        ok = score >= manifest.score.ok_threshold
        templates, template_state = state.templates, state.template_state
        number = state.frame + 1
        if self._is_update(number, likelihood) and score >= self._least:
            crop, _ = self._crop(frame, box, manifest.preprocessing.template, factors)
            templates = (templates[0], *templates[2:], crop)
            template_state = self._encode_templates(templates)
        clock.lap("template")
        estimate = Estimate(score, ok, clock.stages)
        history = (*state.history[1:], box) if state.history else ()
        region = box if ok or not self._settings.hold_size else _held(box, state.region, frame_size)
        return State(box, region, templates, template_state, number, score, state.illumination, history), estimate

    def _is_update(self, number: int, likelihood: float) -> bool:
        interval = self._settings.update_interval
        return interval is not None and number % interval == 0 and likelihood > self._settings.update_threshold

    def _crop(
        self, frame: NDArray[np.uint8], box: NDArray[np.float64], settings: CropSettings, factors: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], float]:
        """Return the normalised crop (size, size, 3) around `box`, its channels times `factors`, and its scale."""
        crop = crop_square(frame, box, settings.factor, settings.size)
        preprocessing = self._manifest.preprocessing
        return normalise(relit(crop.image, factors), preprocessing.mean, preprocessing.std), crop.scale

    def _encode_templates(self, templates: tuple[NDArray[np.float32], ...]) -> dict[str, DeviceTensor]:
        outputs = self._template.run({"templates": np.stack(templates)})
        return {name: self._search.upload(name, value) for name, value in outputs.items()}

    def _prompt(self, state: State, scale: float) -> NDArray[np.int64]:
        """The tokens of the last frames' boxes as they lie in the search crop; none where the model has no prompt."""
        decoder, size = self._manifest.decoder, self._manifest.preprocessing.search.size
        told = [
            box_to_tokens(box_to_crop(box, state.region, scale, size), decoder.bins, decoder.order)
            for box in state.history
        ]
        return np.concatenate(told) if told else np.empty(0, np.int64)

    def _decode(
        self, search: NDArray[np.float32], template_state: Mapping[str, DeviceTensor], prompt: NDArray[np.int64]
    ) -> Decoded:
        if self._step is None:
            feeds: dict[str, NDArray[Any] | DeviceTensor] = {
                "search": search,
                "window": self._window,
                "prompt": prompt[None],
                **template_state,
            }
            out = self._search.run({name: feeds[name] for name in self._search.inputs})
            presence = float(out["presence"][0])
            return Decoded(out["tokens"][0], out["likelihoods"][0], presence, out["probabilities"][0])
        out = self._search.run({"search": search, **template_state})
        decoder, cross = self._manifest.decoder, (out["cross_keys"], out["cross_values"])
        return greedy_decode(self._step, *cross, self._window, decoder.bins, decoder.order, prompt.tolist())


def least_score(score: LikelihoodScore | OverlapScore) -> float:
    """The score from which on a template is taken where `Settings.only_sure`."""
    return score.ok_threshold if score.source == "likelihood" else max(score.ok_threshold, SURE)


def _held(box: NDArray[np.float64], region: NDArray[np.float64], frame_size: tuple[int, int]) -> NDArray[np.float64]:
    """As large as `region`, about the centre of `box` or the frame's point nearest to it."""
    centre = np.clip(box[:2] + 0.5 * box[2:], 0, frame_size)
    return np.concatenate([centre - 0.5 * region[2:], region[2:]])
