"""A tracker behind the TraX protocol, for the VOT toolkit's own experiments (VOT2020 and later).

The toolkit starts the command that ``trackers.ini`` names, and measures accuracy, robustness and EAO itself:

    [edgetrack]
    protocol = trax
    command = python -m benchmarks vot MODEL --backend onnxruntime-cpu
    env_PYTHONPATH = the folder of this checkout

Targets go in and out as rectangles, which the toolkit makes of its masks; several at a time are tracked one by one.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.contenders import Contender, EdgetrackContender, Frame, Spec
from benchmarks.results import ResultsError
from edgetrack.sources import read_image


def import_trax() -> ModuleType:
    """Return the ``trax`` module.

    Raises:
        ResultsError: it is not installed.
    """
    try:
        import trax
    except ImportError:
        raise ResultsError("the VOT toolkit talks TraX: pip install --group toolkits") from None
    return trax


def serve(spec: Spec) -> None:
    """Answer the toolkit's requests on standard input and output, or on the socket that it names, until it quits."""
    trax = import_trax()
    first = spec.make()

    def fresh() -> Contender:
        # Sessions are shared: every further target costs a state only.
        return EdgetrackContender(spec, first.tracker.model) if isinstance(first, EdgetrackContender) else spec.make()

    with trax.Server(
        [trax.Region.RECTANGLE],
        [trax.Image.PATH],
        tracker_name="edgetrack",
        tracker_description=first.label,
        multiobject=True,
    ) as server:
        targets: list[Contender] = []
        while (request := server.wait()).type != trax.TraxStatus.QUIT:
            frame = read_image(Path(request.image["color"].path()))
            if request.type == trax.TraxStatus.INITIALIZE:
                targets = []
            status = [_answer(trax, target, frame) for target in targets]
            for region, _ in request.objects or ():
                targets.append(fresh())
                targets[-1].init(frame, region.bounds())
                status.append((region, {}))
            server.status(status)


def _answer(trax: Any, target: Contender, frame: Frame) -> tuple[Any, dict[str, float]]:
    answer = target.update(frame)
    confidence = {} if answer.score != answer.score else {"confidence": answer.score}
    return trax.Rectangle.create(*answer.box), confidence
