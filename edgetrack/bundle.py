"""A model bundle: a manifest, the graphs it names and their hashes, in a directory or a .zip of one.

`read_bundle` trusts nothing it reads: version, schema, paths, sizes, hashes and tensor specs are checked, in this
order, before a graph is handed to a runtime. There is no pickle in a bundle.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import stat
import struct
import tempfile
import weakref
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from edgetrack.arguments import require_utf8
from edgetrack.decoding import CENTRE_STEPS
from edgetrack.errors import BundleError, IntegrityError, ManifestError, SchemaVersionError, UnsafePathError
from edgetrack_runtimes import TensorSpec
from edgetrack_runtimes.onnx_file import external_locations

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCHEMA_VERSION = 3
"""The manifest version this edgetrack reads and writes. Since 3 the graphs take images channels last."""
MANIFEST = "manifest.json"

# Bounds on what an archive may make this process read or write. Real weights deflate by less than a factor of 10.
_MAX_MANIFEST_BYTES = 16 << 20
_MAX_BUNDLE_BYTES = 8 << 30
_MAX_INFLATION = 100
_ALWAYS_ALLOWED_BYTES = 64 << 20

_SHIPPED = Path(__file__).parent / "models"
_CHUNK = 1 << 20


class _Part(BaseModel):
    """A frozen piece of the manifest; unknown keys and non-finite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CropSettings(_Part):
    """A square crop: `size` pixels a side, `factor` times the box's side wide: the geometric mean of SeqTrack's, the
    longer one of VTT's."""

    size: int = Field(ge=1)
    factor: float = Field(gt=0, le=100)  # the models' are 1.25 to 5


class CanvasSettings(_Part):
    """Pixels of the canvas that the whole frame is scaled to fit; it lies in the top-left corner, the rest is black."""

    width: int = Field(ge=1)
    height: int = Field(ge=1)


class _Colours(_Part):
    """What is done to a pixel; mean and std are RGB on the [0, 1] scale."""

    color: Literal["rgb"]
    mean: tuple[float, float, float]
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class Preprocessing(_Colours):
    """How a frame becomes the network's inputs: two crops."""

    search: CropSettings
    template: CropSettings


class CanvasPreprocessing(_Colours):
    """How a frame becomes the network's inputs: all of it, and a crop."""

    search: CanvasSettings
    template: CropSettings


class DecoderSettings(_Part):
    """The vocabulary and how a box is written in it.

    Attributes:
        bins: tokens 0..bins-1 are coordinates, END is `bins`, START is `bins + 1`.
        order: cx, cy, w, h, or w, h, cx, cy; or the corners left, top, right, bottom.
        decoding: one token after the other, or all at once.
        prompt_frames: the decoder is told the boxes of so many frames before.
    """

    bins: int = Field(ge=2)
    order: Literal["xywh", "whxy", "corner"]
    decoding: Literal["autoregressive", "bidirectional"] = "autoregressive"
    prompt_frames: int = Field(default=0, ge=0)


class OnlineSettings(_Part):
    """Defaults of the online algorithm.

    Attributes:
        window: strength of the Hanning penalty on the centre, 0 (none) to 1 (the paper's).
        update_interval: frames between template updates; None never updates.
        update_threshold: a template is taken when the mean of the four likelihoods is above this.
        clip_margin: pixels of a box's width and height that are kept in view, and the least that these are; 10 is the
            official tracker's.
        hold_size: whether the searched region keeps its size while the score is below its threshold; for scores that
            are calibrated.
        look_around: whether a lost target is looked for around where it was, too; for scores that are calibrated.
        size_change: standard deviation of the logarithm of the factor by which a target's width and height change from
            frame to frame; 0 (the paper's) does not say.
        mean_within: how far about a chosen token its distribution is averaged over, in units of the search crop's side;
            0 (the paper's) takes the token.
        match_illumination: whether crops are brought to the illumination of the first frame, see
            `edgetrack.illumination`; the paper's are not.
    """

    window: float = Field(ge=0, le=1)
    update_interval: Annotated[int, Field(ge=1)] | None
    update_threshold: float = Field(ge=0)
    clip_margin: float = Field(ge=0)
    hold_size: bool = False
    look_around: bool = False
    size_change: float = Field(default=0, ge=0)
    mean_within: float = Field(default=0, ge=0, le=1)
    match_illumination: bool = False


class SearchOnlineSettings(_Part):
    """Defaults of the online algorithm of a global search.

    Attributes:
        second_look: how large a candidate is shown when it is looked at again: its geometric mean side, in units of the
            canvas's shorter side; 0 (the paper's) looks once.
        match_illumination: as `OnlineSettings`'.
    """

    second_look: float = Field(default=0, ge=0, le=1)
    match_illumination: bool = False


class LikelihoodScore(_Part):
    """The score is the mean of the four token likelihoods: uncalibrated."""

    source: Literal["likelihood"]
    ok_threshold: float


class OverlapScore(_Part):
    """The score is ``sigmoid(intercept + presence * logit(P) + overlap * logit(E) + size + memory * logit(prior))``.

    P = 1 - P(END), and E is the overlap that the decoder expects of its box. Size is the evidence of `OnlineSettings`'
    `size_change`, see `edgetrack.decoding.resized`; 0 where there is none. The prior is what the last frame's score s
    leaves of the chance that the target is followed, which ends and begins from one frame to the next with probability
    `change`: ``s (1 - change) + (1 - s) change``. See `edgetrack.scoring`.
    """

    source: Literal["overlap"]
    presence: float
    overlap: float
    intercept: float
    memory: float = Field(ge=0, le=1)
    change: float = Field(ge=0, le=0.5)
    ok_threshold: float


class TopScore(_Part):
    """The score is the best query's softmax probability: uncalibrated."""

    source: Literal["top"]
    ok_threshold: float


class LogisticScore(_Part):
    """The score is ``sigmoid(intercept + slope * logit(p))`` of the best query's softmax probability p."""

    source: Literal["logistic"]
    slope: float
    intercept: float
    ok_threshold: float


class Tensor(_Part):
    """One input or output of a graph; `dtype` is numpy's name for it."""

    name: str = Field(min_length=1)
    shape: tuple[Annotated[int, Field(ge=1)], ...]
    dtype: str

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.shape, self.dtype)


class Graph(_Part):
    """One ONNX file and the tensors that go in and come out."""

    file: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Variant(_Part):
    """The graphs of one precision, by name."""

    graphs: dict[str, Graph]


class KnownAnswer(_Part):
    """What a variant answers to the question of `edgetrack.known_answer`: the box, x, y, w, h in pixels, and the
    score."""

    box: tuple[float, float, float, float]
    score: float


class FileEntry(_Part):
    """Size and hash of one file."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class _Manifest(_Part):
    """What every kind of model states.

    `files` lists every file of the bundle but the manifest, by POSIX path relative to it; `write_bundle` fills it.
    `known_answers` are by variant; a variant without one is not asked.
    """

    schema_version: Literal[3]
    kind: str
    name: str = Field(min_length=1)
    description: str
    variants: dict[str, Variant] = Field(min_length=1)
    files: dict[str, FileEntry] = {}
    known_answers: dict[str, KnownAnswer] = {}
    provenance: dict[str, JsonValue] = {}
    accuracy: dict[str, JsonValue] = {}


class SeqTrackManifest(_Manifest):
    """What manifest.json holds of a SeqTrack."""

    kind: Literal["seqtrack"]
    preprocessing: Preprocessing
    decoder: DecoderSettings
    templates: int = Field(ge=1)
    online: OnlineSettings
    score: Annotated[LikelihoodScore | OverlapScore, Field(discriminator="source")]


class VTTManifest(_Manifest):
    """What manifest.json holds of a VTT; `queries` is the number of candidates."""

    kind: Literal["vtt"]
    preprocessing: CanvasPreprocessing
    queries: int = Field(ge=1)
    online: SearchOnlineSettings = SearchOnlineSettings()
    score: Annotated[TopScore | LogisticScore, Field(discriminator="source")]


Manifest: TypeAlias = SeqTrackManifest | VTTManifest
_KINDS = ("seqtrack", "vtt")
_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Annotated[Manifest, Field(discriminator="kind")])


def validate_manifest(text: str | bytes) -> Manifest:
    """The manifest that JSON text is, of the kind that it says.

    Raises:
        pydantic.ValidationError: it does not fit the schema.
    """
    # Strict: a number written as a string is a mistake of whoever wrote the manifest, not something to guess about.
    return _MANIFEST.validate_json(text, strict=True)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle that passed every check.

    Attributes:
        source: the directory or .zip it was read from.
        root: the directory that holds its files; for a .zip a temporary one that lives as long as this object.
    """

    manifest: Manifest
    source: Path
    root: Path

    def graph_path(self, variant: str, graph: str) -> Path:
        """Return the file of one graph of one precision variant."""
        return self.root / self.manifest.variants[variant].graphs[graph].file


def shipped_models() -> tuple[str, ...]:
    """Return the names of the bundles that ship with edgetrack, sorted."""
    return tuple(sorted(path.parent.name for path in _SHIPPED.glob(f"*/{MANIFEST}")))


def find_model(model: str | os.PathLike[str]) -> Path:
    """Return where the bundle called `model` lies: a shipped name, or the path of a directory or .zip.

    A shipped name wins over a file of that name in the current directory; write ``./name`` for the file.

    Raises:
        BundleError: there is no such model, or it is no name at all; the message lists the shipped names.
    """
    shipped = shipped_models()
    # PyInstaller takes a package's code alone, and Python does not look for folders in a .zip.
    listed = _listing(shipped) if shipped else "none is here: the folder models was left out when edgetrack was packed"
    expected = f"expected a shipped one ({listed}), or the path of a directory or .zip"
    if not isinstance(model, str | os.PathLike) or not os.fspath(model):
        raise BundleError(f"got the model {model!r}; {expected}")
    if model in shipped:
        return _SHIPPED / str(model)
    if not os.path.exists(model):  # False too for what cannot be a path: one too long, or with a NUL
        raise BundleError(f"no model {os.fspath(model)!r}: {expected}")
    return Path(model)


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and check the bundle at `path`, a directory or a .zip of one with the manifest at its top.

    Raises:
        BundleError: nothing is there, or no directory and no .zip; it cannot be read, or its path is not UTF-8.
        ManifestError: the manifest is missing, is not JSON, does not fit the schema, or its graphs do not fit together.
        SchemaVersionError: it was written for another version; checked before the rest of the manifest is looked at.
        UnsafePathError: a path leads out of the bundle, or an archive unpacks to an unreasonable size.
        IntegrityError: a file is missing, or its size or hash is not the manifest's.
    """
    source = Path(path)
    require_utf8(str(source), BundleError)
    try:
        if source.is_dir():
            manifest = _parse_manifest(_manifest_of_directory(source), source)
            bundle = Bundle(manifest, source, source)
        elif source.is_file():
            bundle = _unpack(source)
        else:
            raise BundleError(f"no bundle at {source}: expected a directory with a {MANIFEST}, or a .zip of one")
        _check(bundle.root, bundle.manifest, source)
    except OSError as error:  # a file that this user may not read, a name longer than the system takes
        raise BundleError(f"{source}: the bundle cannot be read: {error}") from error
    return bundle


def write_bundle(root: str | os.PathLike[str], manifest: Manifest) -> Bundle:
    """Make a bundle of the directory `root`, which holds the graphs: hash its files, check all, write the manifest.

    Every file under `root` but the manifest is listed, whatever ``manifest.files`` said. The manifest appears in one
    step and only if the bundle passes the checks of `read_bundle`, whose errors it raises.
    """
    root = Path(root)
    partial = root / f".{MANIFEST}.partial"
    paths = sorted(p for p in root.rglob("*") if not p.is_dir() and p not in (root / MANIFEST, partial))
    files = {p.relative_to(root).as_posix(): FileEntry(sha256=_sha256(p), bytes=p.stat().st_size) for p in paths}
    manifest = manifest.model_copy(update={"files": files})
    _check(root, manifest, root)
    partial.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    os.replace(partial, root / MANIFEST)
    return Bundle(manifest, root, root)


def pack(root: str | os.PathLike[str], archive: str | os.PathLike[str]) -> Path:
    """Write the bundle directory `root` as the .zip `archive`, in one step; equal bundles give equal bytes.

    Raises the errors of `read_bundle` if `root` is not a sound bundle.
    """
    bundle = read_bundle(root)
    archive = Path(archive)
    partial = archive.with_name(f".{archive.name}.partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as out:
            for name in (MANIFEST, *sorted(bundle.manifest.files)):
                # A fixed date, so that the bytes depend on the content alone.
                info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = 0o644 << 16
                with (bundle.root / name).open("rb") as source, out.open(info, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target, _CHUNK)
        os.replace(partial, archive)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    return archive


def _manifest_of_directory(root: Path) -> bytes:
    path = _inside(root, MANIFEST, root)
    if not path.is_file():
        raise ManifestError(f"{root}: no {MANIFEST}; a bundle directory holds one next to its graphs")
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise ManifestError(
            f"{path} has {path.stat().st_size} bytes, more than the {_MAX_MANIFEST_BYTES} a manifest may have"
        )
    return path.read_bytes()


def _parse_manifest(text: bytes, source: Path) -> Manifest:
    try:
        raw: Any = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError covers bad JSON and bad UTF-8
        raise ManifestError(f"{source}: {MANIFEST} is not valid JSON: {error}") from None
    if not isinstance(raw, dict) or "schema_version" not in raw:
        raise ManifestError(
            f"{source}: {MANIFEST} has no schema_version; expected an object with schema_version {SCHEMA_VERSION}"
        )
    version = raw["schema_version"]
    if type(version) is not int or version != SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{source}: the manifest has schema_version {version!r}, this edgetrack reads {SCHEMA_VERSION}; "
            "install the edgetrack the bundle was made for, or export the model again"
        )
    try:
        return validate_manifest(text)
    except ValidationError as error:
        problems = [f"{_place(e['loc'])}: {e['msg']}" for e in error.errors(include_url=False)]
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise ManifestError(f"{source}: {MANIFEST} does not fit the schema: {'; '.join(problems[:5])}{more}") from None


def _place(loc: tuple[int | str, ...]) -> str:
    """Where in the manifest an error is. Pydantic puts the kind in front, and names no place where that is wrong."""
    return ".".join(map(str, loc[1:] if loc and loc[0] in _KINDS else loc)) or "kind"


def _inside(root: Path, relative: str, source: Path) -> Path:
    """Return ``root / relative`` when it is a plain relative POSIX path that stays in `root`, links followed."""
    _check_plain(relative, str(source))
    full = root / relative
    try:
        resolved = full.resolve()
    except (OSError, RuntimeError) as error:  # a loop of symbolic links
        raise UnsafePathError(f"{source}: the path {relative!r} cannot be resolved: {error}") from None
    if not resolved.is_relative_to(root.resolve()):
        raise UnsafePathError(f"{source}: {relative!r} leads out of the bundle, to {resolved}")
    return full


def _check_plain(relative: str, where: str) -> None:
    path = PurePosixPath(relative)
    if (
        str(path) != relative
        or relative == "."
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in relative
        or "\0" in relative
        or PureWindowsPath(relative).drive
    ):
        raise UnsafePathError(
            f"{where}: the path {relative!r} is not allowed; expected a plain relative path inside the bundle"
        )


def _unpack(source: Path) -> Bundle:
    """Unpack the files that the manifest of the archive `source` lists to a temporary directory."""
    if not zipfile.is_zipfile(source):
        raise BundleError(f"{source} is not a bundle: expected a directory with a {MANIFEST}, or a whole .zip of one")
    try:
        with zipfile.ZipFile(source) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if MANIFEST not in members:
                raise ManifestError(f"{source}: no {MANIFEST} at the top of the archive")
            if members[MANIFEST].file_size > _MAX_MANIFEST_BYTES:
                raise ManifestError(f"{source}: {MANIFEST} unpacks to more than {_MAX_MANIFEST_BYTES} bytes")
            manifest = _parse_manifest(archive.read(MANIFEST), source)
            _check_members(archive, manifest, source)
            root = Path(tempfile.mkdtemp(prefix="edgetrack-"))
            bundle = Bundle(manifest, source, root)
            weakref.finalize(bundle, _remove, root, os.getpid())
            for name in manifest.files:
                if name not in members:
                    raise IntegrityError(f"{source}: {name!r} is listed in the manifest but missing from the archive")
                target = _inside(root, name, source)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(members[name]) as packed, target.open("wb") as out:
                    shutil.copyfileobj(packed, out, _CHUNK)
            return bundle
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError) as error:
        # zipfile lets its parsers' errors through; its own checksum of a member fails before our hash of it can.
        raise IntegrityError(f"{source}: the archive is damaged ({error}); fetch it again") from None
    except (OSError, RuntimeError) as error:  # a full disk, an encrypted member, a compression Python lacks
        raise BundleError(f"{source}: the archive cannot be unpacked: {error}") from None


def _remove(root: Path, owner: int) -> None:
    """Remove what the process `owner` unpacked; one forked off it has the same finalizers, and no right to it."""
    if os.getpid() == owner:
        shutil.rmtree(root, ignore_errors=True)


def _check_members(archive: zipfile.ZipFile, manifest: Manifest, source: Path) -> None:
    """Refuse an archive with a member that would land outside, a link, or more bytes than its size explains."""
    for info in archive.infolist():
        _check_plain(info.filename.removesuffix("/"), str(source))
        if stat.S_ISLNK(info.external_attr >> 16):
            raise UnsafePathError(f"{source}: {info.filename!r} is a symbolic link; a bundle archive holds plain files")
    unpacked = sum(info.file_size for info in archive.infolist() if info.filename in manifest.files)
    limit = min(_MAX_BUNDLE_BYTES, max(_ALWAYS_ALLOWED_BYTES, _MAX_INFLATION * source.stat().st_size))
    if unpacked > limit:
        raise UnsafePathError(
            f"{source}: would unpack to {unpacked} bytes, more than the {limit} allowed for an archive of its size; "
            "unpack it yourself and load the directory if you trust it"
        )


def _check(root: Path, manifest: Manifest, source: Path) -> None:
    """Check paths, then sizes and hashes, then where the weights lie, then that the graphs fit together."""
    graphs = [graph for variant in manifest.variants.values() for graph in variant.graphs.values()]
    for name in (*manifest.files, *(graph.file for graph in graphs)):
        _inside(root, name, source)
    for graph in graphs:
        if graph.file not in manifest.files:
            raise IntegrityError(
                f"{source}: the graph {graph.file!r} is missing from the bundle's files ({_listing(manifest.files)})"
            )
    for name, entry in manifest.files.items():
        path = root / name
        if not path.is_file():
            raise IntegrityError(f"{source}: {name!r} is listed in the manifest but missing from the bundle")
        if (size := path.stat().st_size) != entry.bytes:
            raise IntegrityError(
                f"{source}: {name!r} has {size} bytes, the manifest says {entry.bytes}; fetch the bundle again"
            )
        if (digest := _sha256(path)) != entry.sha256:
            raise IntegrityError(
                f"{source}: {name!r} has sha256 {digest}, the manifest says {entry.sha256}; fetch the bundle again"
            )
    for graph in graphs:
        _check_weights(root, graph.file, manifest, source)
    for name, variant in manifest.variants.items():
        where = f"{source}: variant {name!r}"
        if manifest.kind == "vtt":
            _check_vtt(manifest, variant, where)
        else:
            _check_seqtrack(manifest, variant, where)
    if manifest.kind == "seqtrack" and not CENTRE_STEPS[manifest.decoder.order] and manifest.online.window:
        raise ManifestError(
            f"{source}: online.window is {manifest.online.window:g} but a box is written as its corners, which have no "
            "tokens for the centre to penalise; expected 0"
        )
    if manifest.kind == "seqtrack" and manifest.templates == 1 and manifest.online.update_interval is not None:
        raise ManifestError(
            f"{source}: online.update_interval is {manifest.online.update_interval} but the model has one template, "
            "which is never replaced; expected null"
        )


def _check_weights(root: Path, file: str, manifest: Manifest, source: Path) -> None:
    """Check that the files which the graph `file` takes weights from are the bundle's: a runtime opens any of them."""
    for location in sorted(external_locations(root / file)):
        _check_plain(location, f"{source}: weights of {file!r}")
        name = (PurePosixPath(file).parent / location).as_posix()
        if name not in manifest.files:
            raise IntegrityError(
                f"{source}: {file!r} takes weights from {name!r}, which the manifest does not list, so that no hash "
                f"vouches for it (listed: {_listing(manifest.files)}); fetch the bundle again"
            )


_CROSS = ("cross_keys", "cross_values")


def _check_seqtrack(manifest: SeqTrackManifest, variant: Variant, where: str) -> None:
    """Check that a variant has SeqTrack's graphs and that one's outputs are the next one's inputs.

    T templates; S, St search and template size; Ld, Hd, dd decoder layers, heads and head width; M memory tokens.
    """
    decoder = manifest.decoder
    stepwise = decoder.decoding == "autoregressive"
    expected = {"template", "track", *(("encode", "decode_step") if stepwise else ())}
    if set(variant.graphs) != expected:
        raise ManifestError(f"{where} has the graphs {_listing(variant.graphs)}; expected {_listing(expected)}")
    preprocessing, bins = manifest.preprocessing, decoder.bins
    size, template_size = preprocessing.search.size, preprocessing.template.size
    state = [tensor.spec for tensor in variant.graphs["template"].outputs]
    if not state:
        raise ManifestError(f"{where}: the graph 'template' has no outputs; expected the template state")
    search = _floats("search", 1, size, size, 3)
    options = [_floats("window", bins)] if CENTRE_STEPS[decoder.order] else []
    if decoder.prompt_frames:
        options.append(TensorSpec("prompt", (1, 4 * decoder.prompt_frames), "int64"))
    wanted: dict[str, tuple[list[TensorSpec], list[TensorSpec]]] = {
        "template": ([_floats("templates", manifest.templates, template_size, template_size, 3)], state),
    }
    if stepwise:
        cross = [tensor.spec for tensor in variant.graphs["encode"].outputs]
        if tuple(sorted(spec.name for spec in cross)) != _CROSS or any(len(spec.shape) != 5 for spec in cross):
            raise ManifestError(
                f"{where}: 'encode' has outputs {_specs(cross)}; expected {_listing(_CROSS)} of shape "
                "(Ld, 1, Hd, M, dd)"
            )
        layers, batch, heads, memory, width = cross[0].shape
        past = (layers, batch, heads, 4 * decoder.prompt_frames + 5, width)  # the prompt, START and four tokens
        wanted["encode"] = ([search, *state], [_floats(name, layers, 1, heads, memory, width) for name in _CROSS])
        wanted["decode_step"] = (
            [
                TensorSpec("token", (1,), "int64"),
                TensorSpec("position", (1,), "int64"),
                *(_floats(name, *past) for name in ("past_keys", "past_values")),
                *cross,
            ],
            [_floats("logits", 1, bins + 2), *(_floats(name, *past) for name in ("present_keys", "present_values"))],
        )
    wanted["track"] = (
        [search, *state, *options],
        [
            TensorSpec("tokens", (1, 4), "int64"),
            _floats("likelihoods", 1, 4),
            _floats("presence", 1),
            _floats("probabilities", 1, 4, bins),
        ],
    )
    _check_graphs(variant, wanted, where)


def _check_vtt(manifest: VTTManifest, variant: Variant, where: str) -> None:
    """Check that a variant has VTT's two graphs: a template's kernel, (C, D), and the search with it."""
    expected = {"template", "search"}
    if set(variant.graphs) != expected:
        raise ManifestError(f"{where} has the graphs {_listing(variant.graphs)}; expected {_listing(expected)}")
    canvas, template_size = manifest.preprocessing.search, manifest.preprocessing.template.size
    kernel = [tensor.spec for tensor in variant.graphs["template"].outputs]
    if [spec.name for spec in kernel] != ["kernel"] or len(kernel[0].shape) != 2:
        raise ManifestError(f"{where}: 'template' has outputs {_specs(kernel)}; expected kernel of shape (C, D)")
    wanted: dict[str, tuple[list[TensorSpec], list[TensorSpec]]] = {
        "template": ([_floats("template", 1, template_size, template_size, 3)], [_floats("kernel", *kernel[0].shape)]),
        "search": (
            [_floats("search", 1, canvas.height, canvas.width, 3), _floats("extent", 1, 2), *kernel],
            [_floats("boxes", 1, manifest.queries, 4), _floats("scores", 1, manifest.queries)],
        ),
    }
    _check_graphs(variant, wanted, where)


def _check_graphs(
    variant: Variant, wanted: Mapping[str, tuple[list[TensorSpec], list[TensorSpec]]], where: str
) -> None:
    for name, (inputs, outputs) in wanted.items():
        graph = variant.graphs[name]
        check_specs(f"{where}: inputs of {name!r}", [t.spec for t in graph.inputs], inputs)
        check_specs(f"{where}: outputs of {name!r}", [t.spec for t in graph.outputs], outputs)


def check_specs(what: str, found: list[TensorSpec], expected: list[TensorSpec]) -> None:
    """Compare two sets of tensors by name, shape and dtype; the order does not matter.

    Raises:
        ManifestError: they differ; the message names `what` and lists the differences.
    """
    if sorted(found, key=repr) != sorted(expected, key=repr):
        wrong = [spec for spec in found if spec not in expected] or found
        missing = [spec for spec in expected if spec not in found]
        raise ManifestError(f"{what}: found {_specs(wrong)}; expected {_specs(missing or expected)}")


def _floats(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, shape, "float32")


def _specs(specs: list[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec}" for spec in specs) or "nothing"


def _listing(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
