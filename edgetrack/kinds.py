"""What a manifest's kind decides: the graphs that run, the options that make sense, and the online algorithm."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, NamedTuple

from edgetrack import seqtrack, vtt
from edgetrack.decoding import CENTRE_STEPS
from edgetrack.errors import OptionError
from edgetrack.longterm import LongTerm

if TYPE_CHECKING:
    from edgetrack.bundle import Manifest, SeqTrackManifest
    from edgetrack.model import Model
    from edgetrack.online import Algorithm

FRAME_GRAPHS = {"seqtrack": seqtrack.GRAPHS["fused"][-1], "vtt": vtt.GRAPHS[-1]}
"""By kind of model, the graph that answers a frame; SeqTrack's in its default way of decoding."""


class Options(NamedTuple):
    """What a user may choose of the online algorithms; None leaves it to the manifest. See `edgetrack.Tracker`."""

    decode: str = "fused"
    window: float | None = None
    update_interval: int | None = None
    update_threshold: float | None = None
    look_around: bool | None = None


def check(options: Options) -> None:
    """Check what can be checked without a model.

    Raises:
        OptionError: an option is out of range.
    """
    decode, interval = options.decode, options.update_interval
    if not isinstance(decode, str) or decode not in seqtrack.GRAPHS:
        raise OptionError(f"got decode={decode!r}; expected one of {', '.join(seqtrack.GRAPHS)}")
    _check_number("window", options.window, 0.0, 1.0)
    _check_number("update_threshold", options.update_threshold, 0.0, math.inf)
    if interval is not None and (isinstance(interval, bool) or not isinstance(interval, int) or interval < 0):
        raise OptionError(f"got update_interval={interval!r}; expected a whole number of frames, or 0 to never update")
    if options.look_around is not None and not isinstance(options.look_around, bool):
        raise OptionError(f"got look_around={options.look_around!r}; expected True, False, or None for the model's own")


def in_force(manifest: Manifest, options: Options) -> dict[str, str | float | None]:
    """By name, what `options` come to on a model: the manifest's where one was left out, 0 where there is no update.
    Nothing where the kind of model has no such options."""
    if manifest.kind == "vtt":
        return {}
    own = {name: 0 if value is None else value for name, value in manifest.online.model_dump().items()}
    return {name: own[name] if value is None else value for name, value in options._asdict().items()}


def graphs(manifest: Manifest, options: Options) -> tuple[str, ...]:
    """The graphs that the algorithm of a model will run.

    Raises:
        OptionError: an option that this kind of model does not have, or this model cannot do.
    """
    if manifest.kind == "seqtrack":
        if options.look_around:
            _require_losing("look_around", manifest)
        if options.decode == "cached" and manifest.decoder.decoding == "bidirectional":
            raise OptionError(
                f"got decode='cached', but {manifest.name!r} decodes all tokens at once; expected decode='fused'"
            )
        if options.update_interval and manifest.templates == 1:
            raise OptionError(
                f"got update_interval={options.update_interval}, but {manifest.name!r} has one template, which is "
                "never replaced; leave update_interval out, or take a model with two templates"
            )
        if options.window and not CENTRE_STEPS[manifest.decoder.order]:
            raise OptionError(
                f"got window={options.window!r}, but {manifest.name!r} writes a box as its corners, and a window "
                "penalises tokens of the centre; leave window out"
            )
        return seqtrack.GRAPHS[options.decode]
    for name, value, default in zip(Options._fields, options, Options(), strict=True):
        if value != default:
            raise OptionError(
                f"got {name}={value!r}, but {manifest.name!r} is of kind 'vtt', which has no such option; leave it out"
            )
    return vtt.GRAPHS


def algorithm(model: Model, options: Options, search: Model | None = None, interval: int = 1) -> Algorithm:
    """The online algorithm on a model, with the user's options or else its manifest's.

    Args:
        search: searches the whole frame for a lost target, at most once in `interval` frames.
    """
    manifest = model.manifest
    if manifest.kind == "vtt":
        return vtt.VTT(model)
    reach, settings = _reach(manifest, options), _settings(manifest, options)
    if reach is None and search is None:
        return seqtrack.SeqTrack(model, options.decode, settings)
    local = seqtrack.SeqTrack(model, options.decode, settings._replace(only_sure=True, hold_size=True))
    whole = vtt.VTT(search) if search else None
    return LongTerm(local, manifest.online.clip_margin, reach=reach, search=whole, interval=interval)


def require_pair(local: Manifest, search: Manifest) -> None:
    """Check that a model can be helped by another that searches the whole frame.

    Raises:
        OptionError: it cannot.
    """
    if local.kind != "seqtrack":
        raise OptionError(
            f"got redetect with {local.name!r}, of kind {local.kind!r}, which searches the whole frame anyway; "
            "leave redetect out, or take a model of kind 'seqtrack', such as seqtrack-nano"
        )
    if search.kind != "vtt":
        raise OptionError(
            f"got redetect={search.name!r}, of kind {search.kind!r}, which cannot search the whole frame; "
            "expected a model of kind 'vtt', such as vtt-nano"
        )
    _require_losing("redetect", local)


def _require_losing(option: str, manifest: SeqTrackManifest) -> None:
    """Refuse what helps with a lost target where the model never says that it has lost it."""
    if manifest.score.ok_threshold <= 0:
        raise OptionError(
            f"got {option} with {manifest.name!r}, whose score says of no target that it is lost: ok stays true, and "
            f"nothing would be looked for; leave {option} out, take seqtrack-nano, or calibrate the model's score "
            "(python -m train calibrate) and build it again"
        )


def _reach(manifest: SeqTrackManifest, options: Options) -> float | None:
    """How far from one place to the next where the tracker looks around, which is half a crop; None where not."""
    wanted = manifest.online.look_around if options.look_around is None else options.look_around
    return 0.5 * manifest.preprocessing.search.factor if wanted else None


def _settings(manifest: SeqTrackManifest, options: Options) -> seqtrack.Settings:
    """Fill what the user left open from the manifest."""
    online = manifest.online
    return seqtrack.Settings(
        online.window if options.window is None else options.window,
        online.update_interval if options.update_interval is None else options.update_interval or None,
        online.update_threshold if options.update_threshold is None else options.update_threshold,
        hold_size=online.hold_size,
        size_change=online.size_change,
        mean_within=online.mean_within,
        match_illumination=online.match_illumination,
    )


def _check_number(name: str, value: float | None, low: float, high: float) -> None:
    if value is None:
        return
    usable = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Bounded by what a float can hold, which an int need not be; NaN is in no bounds.
    if not usable or not low <= value <= min(high, sys.float_info.max):
        limits = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
        raise OptionError(f"got {name}={value!r}; expected a number {limits}, or None for the model's own setting")
