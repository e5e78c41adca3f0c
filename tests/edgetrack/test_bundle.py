"""Reading and writing bundles: what is sound is read, and each way of being damaged is refused by its own error."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from synthetic_bundle import ColourNet, manifest_of, write_colour_bundle, write_graphs

from edgetrack import bundle as bundle_module
from edgetrack.bundle import SCHEMA_VERSION, find_model, pack, read_bundle, shipped_models, write_bundle
from edgetrack.errors import BundleError, IntegrityError, ManifestError, SchemaVersionError, UnsafePathError


def edit(root: Path, change: Callable[[dict], object]) -> None:
    """Apply `change` to the manifest of the bundle in `root`, as an attacker or a clumsy editor would."""
    path = root / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def zipped(root: Path, archive: Path, names: list[str] | None = None) -> Path:
    """Zip the files of `root` without any of `pack`'s care."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for name in names or sorted(os.listdir(root)):
            out.write(root / name, name)
    return archive


def test_reads_what_was_written(colour_bundle) -> None:
    again = read_bundle(str(colour_bundle.root))
    assert again.manifest == colour_bundle.manifest
    assert again.graph_path("fp32", "track") == colour_bundle.root / "track.onnx"
    assert set(again.manifest.files) == {"template.onnx", "encode.onnx", "decode_step.onnx", "track.onnx"}


def test_the_manifest_cannot_be_changed(colour_bundle) -> None:
    with pytest.raises(ValueError, match="frozen"):
        colour_bundle.manifest.templates = 3


@pytest.mark.parametrize("order", ["xywh", "whxy"])
def test_any_size_of_network_fits(tmp_path, order) -> None:
    net = ColourNet(search=32, template=16, templates=1, bins=20, order=order)
    write_colour_bundle(tmp_path / "small", net)
    assert read_bundle(tmp_path / "small").manifest.decoder.bins == 20


# Existence and kind


def test_nothing_there(tmp_path) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*nowhere"):
        read_bundle(tmp_path / "nowhere")


def test_a_file_that_is_no_archive(tmp_path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a zip")
    with pytest.raises(BundleError, match=r"model.onnx is not a bundle: expected a directory"):
        read_bundle(tmp_path / "model.onnx")


def test_a_directory_without_manifest(damaged) -> None:
    (damaged / "manifest.json").unlink()
    with pytest.raises(ManifestError, match=r"no manifest.json"):
        read_bundle(damaged)


@pytest.mark.parametrize("text", ["", "{", "\x00", "[" * 100_000, "no"])
def test_a_manifest_that_is_not_json(damaged, text) -> None:
    (damaged / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match="not valid JSON"):
        read_bundle(damaged)


def test_a_manifest_that_is_not_text(damaged) -> None:
    (damaged / "manifest.json").write_bytes(b'{"name": "\xff\xfe"}')
    with pytest.raises(ManifestError, match="not valid JSON"):
        read_bundle(damaged)


def test_an_enormous_manifest_is_not_read(damaged) -> None:
    with (damaged / "manifest.json").open("r+b") as file:
        file.truncate(1 << 30)  # sparse: takes no room
    with pytest.raises(ManifestError, match="more than"):
        read_bundle(damaged)


@pytest.mark.parametrize("name", ["manifest.json", "track.onnx"])
def test_a_file_that_this_user_may_not_read(damaged, monkeypatch, name) -> None:
    """As it is for another user than root, who may read all."""

    def guarded(path: Path, *arguments: object, opened: Callable = Path.open, **options: object) -> object:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", guarded)
    with pytest.raises(BundleError, match=rf"the bundle cannot be read: .*Permission denied: .*{name}"):
        read_bundle(damaged)


def test_a_name_longer_than_the_system_takes(damaged) -> None:
    edit(damaged, lambda m: m["files"].update({"x" * 300: m["files"]["track.onnx"]}))
    with pytest.raises(BundleError, match=r"the bundle cannot be read: .*name too long"):
        read_bundle(damaged)


def test_a_path_that_is_not_utf_8(damaged) -> None:
    """Runtimes do not find a graph in it."""
    path = damaged.rename(damaged.parent / os.fsdecode(b"v\xff"))
    with pytest.raises(BundleError, match=r"v\\udcff', which is not UTF-8; expected a name that is: rename it"):
        read_bundle(find_model(path))


# Version and schema


@pytest.mark.parametrize(
    "version", [0, SCHEMA_VERSION - 1, SCHEMA_VERSION + 1, 99, "2", float(SCHEMA_VERSION), True, None]
)
def test_another_schema_version_is_named_before_anything_else(damaged, version) -> None:
    (damaged / "manifest.json").write_text(json.dumps({"schema_version": version, "from the future": []}))
    with pytest.raises(SchemaVersionError) as caught:
        read_bundle(damaged)
    assert f"schema_version {version!r}" in str(caught.value)
    assert f"reads {SCHEMA_VERSION}" in str(caught.value)


@pytest.mark.parametrize("manifest", [{}, [], 3, "x", None])
def test_no_schema_version(damaged, manifest) -> None:
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match="no schema_version"):
        read_bundle(damaged)


SCHEMA_FAULTS: dict[str, Callable[[dict], object]] = {
    "extra": lambda m: m.update(extra=1),
    "kind": lambda m: m.update(kind="siamese"),
    "name": lambda m: m.pop("name"),
    "templates": lambda m: m.update(templates=0),
    "decoder.bins": lambda m: m["decoder"].update(bins="400"),
    "decoder.order": lambda m: m["decoder"].update(order="yxhw"),
    "preprocessing.color": lambda m: m["preprocessing"].update(color="bgr"),
    "preprocessing.mean.2": lambda m: m["preprocessing"].update(mean=[0.5, 0.5]),
    "preprocessing.std.1": lambda m: m["preprocessing"].update(std=[1, 0, 1]),
    "preprocessing.search.factor": lambda m: m["preprocessing"]["search"].update(factor=float("inf")),
    "preprocessing.template.factor": lambda m: m["preprocessing"]["template"].update(factor=1e308),
    "online.window": lambda m: m["online"].update(window=1.5),
    "online.update_interval": lambda m: m["online"].update(update_interval=0),
    "score": lambda m: m["score"].update(source="oracle"),
    "score.likelihood.presence": lambda m: m["score"].update(presence=1.0),
    "variants": lambda m: m.update(variants={}),
    "files.track.onnx.sha256": lambda m: m["files"]["track.onnx"].update(sha256="0"),
    "files.track.onnx.bytes": lambda m: m["files"]["track.onnx"].update(bytes=-1),
}


@pytest.mark.parametrize("where", SCHEMA_FAULTS)
def test_the_schema_says_where_it_is_violated(damaged, where) -> None:
    edit(damaged, SCHEMA_FAULTS[where])
    with pytest.raises(ManifestError) as caught:
        read_bundle(damaged)
    assert f"does not fit the schema: {where}: " in str(caught.value)


# Paths

ESCAPES = [
    "../track.onnx",
    "/etc/hostname",
    "a/../../x",
    "./track.onnx",
    "a//b",
    ".",
    "",
    "C:\\x",
    "C:x",
    "a\\..\\b",
    "x\0y",
]


@pytest.mark.parametrize("path", ESCAPES)
def test_a_listed_path_may_not_leave_the_bundle(damaged, path) -> None:
    edit(damaged, lambda m: m["files"].update({path: m["files"]["track.onnx"]}))
    with pytest.raises(UnsafePathError) as caught:
        read_bundle(damaged)
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize("path", ESCAPES)
def test_a_graph_may_not_leave_the_bundle(damaged, path) -> None:
    edit(damaged, lambda m: m["variants"]["fp32"]["graphs"]["track"].update(file=path))
    with pytest.raises(UnsafePathError):
        read_bundle(damaged)


def test_a_link_may_not_lead_out(damaged, tmp_path) -> None:
    outside = tmp_path / "outside.onnx"
    (damaged / "track.onnx").rename(outside)
    (damaged / "track.onnx").symlink_to(outside)  # same bytes, same hash
    with pytest.raises(UnsafePathError, match="leads out of the bundle"):
        read_bundle(damaged)


def test_a_linked_folder_may_not_lead_out(damaged, tmp_path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (damaged / "track.onnx").rename(outside / "track.onnx")
    (damaged / "graphs").symlink_to(outside, target_is_directory=True)
    edit(damaged, lambda m: m["variants"]["fp32"]["graphs"]["track"].update(file="graphs/track.onnx"))
    edit(damaged, lambda m: m["files"].update({"graphs/track.onnx": m["files"].pop("track.onnx")}))
    with pytest.raises(UnsafePathError, match="leads out of the bundle"):
        read_bundle(damaged)


def test_a_linked_manifest_may_not_lead_out(damaged, tmp_path) -> None:
    (damaged / "manifest.json").rename(tmp_path / "manifest.json")
    (damaged / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(UnsafePathError):
        read_bundle(damaged)


def test_a_loop_of_links(damaged) -> None:
    (damaged / "track.onnx").unlink()
    (damaged / "track.onnx").symlink_to("track.onnx")
    with pytest.raises((UnsafePathError, IntegrityError)):
        read_bundle(damaged)


def test_links_inside_and_to_the_bundle_are_fine(damaged, tmp_path) -> None:
    (damaged / "track.onnx").rename(damaged / "real.onnx")
    (damaged / "track.onnx").symlink_to("real.onnx")
    (tmp_path / "alias").symlink_to(damaged, target_is_directory=True)
    assert read_bundle(tmp_path / "alias").manifest.name == "colour"


# Files


@pytest.mark.parametrize("graph", ["template", "encode", "decode_step", "track"])
def test_a_flipped_bit(damaged, graph) -> None:
    path = damaged / f"{graph}.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=f"'{graph}.onnx' has sha256"):
        read_bundle(damaged)


def test_a_truncated_file(damaged) -> None:
    with (damaged / "track.onnx").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(IntegrityError, match=r"'track.onnx' has 100 bytes, the manifest says \d+"):
        read_bundle(damaged)


def test_a_file_that_is_gone(damaged) -> None:
    (damaged / "encode.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"'encode.onnx' is listed in the manifest but missing"):
        read_bundle(damaged)


def test_a_folder_in_a_files_place(damaged) -> None:
    (damaged / "encode.onnx").unlink()
    (damaged / "encode.onnx").mkdir()
    with pytest.raises(IntegrityError, match=r"encode.onnx"):
        read_bundle(damaged)


def test_a_graph_without_a_hash(damaged) -> None:
    edit(damaged, lambda m: m["files"].pop("track.onnx"))
    with pytest.raises(IntegrityError, match=r"the graph 'track.onnx' is missing from the bundle's files"):
        read_bundle(damaged)


# Graphs that do not fit together


def take_weights_from(root: Path, location: str) -> Path:
    """Make the bundle's track graph take one tensor from `location`, with a hash that is right; returns the graph."""
    path = root / "track.onnx"
    model = onnx.load(path)
    tensor = onnx.TensorProto(name="extra", dims=[1], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    model.graph.initializer.append(tensor)
    path.write_bytes(model.SerializeToString())
    entry = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    edit(root, lambda m: m["files"].update({"track.onnx": entry}))
    return path


def test_weights_that_are_listed_are_fine(damaged) -> None:
    (damaged / "weights").mkdir()
    (damaged / "weights" / "w.bin").write_bytes(bytes(4))
    manifest = read_bundle(damaged).manifest
    take_weights_from(damaged, "weights/w.bin")
    write_bundle(damaged, manifest)
    assert "weights/w.bin" in read_bundle(damaged).manifest.files


def test_altered_weights(damaged) -> None:
    test_weights_that_are_listed_are_fine(damaged)
    (damaged / "weights" / "w.bin").write_bytes(b"evil")
    with pytest.raises(IntegrityError, match=r"weights/w\.bin' has sha256"):
        read_bundle(damaged)


def test_weights_without_a_hash(damaged) -> None:
    (damaged / "w.bin").write_bytes(bytes(4))
    take_weights_from(damaged, "w.bin")
    with pytest.raises(IntegrityError, match=r"'track\.onnx' takes weights from 'w\.bin', which the manifest does not"):
        read_bundle(damaged)


def test_weights_lie_relative_to_their_graph(damaged) -> None:
    """A file of that name elsewhere in the bundle has a hash, but the runtime opens the one beside the graph."""
    (damaged / "w.bin").write_bytes(bytes(4))
    manifest = read_bundle(damaged).manifest
    take_weights_from(damaged, "w.bin")
    write_bundle(damaged, manifest)
    (damaged / "fp32").mkdir()
    (damaged / "track.onnx").rename(damaged / "fp32" / "track.onnx")
    edit(damaged, lambda m: m["variants"]["fp32"]["graphs"]["track"].update(file="fp32/track.onnx"))
    edit(damaged, lambda m: m["files"].update({"fp32/track.onnx": m["files"].pop("track.onnx")}))
    with pytest.raises(IntegrityError, match=r"takes weights from 'fp32/w\.bin'"):
        read_bundle(damaged)


@pytest.mark.parametrize("location", ["../outside.bin", "a/../../outside.bin", "/etc/hostname", "C:w.bin", "..\\w", ""])
def test_weights_may_not_lie_outside(damaged, location) -> None:
    (damaged.parent / "outside.bin").write_bytes(bytes(4))
    take_weights_from(damaged, location)
    with pytest.raises(UnsafePathError, match=r"weights of 'track\.onnx'") as caught:
        read_bundle(damaged)
    assert repr(location) in str(caught.value)


def test_a_graph_that_is_none_is_left_to_the_runtime(damaged) -> None:
    manifest = read_bundle(damaged).manifest
    (damaged / "track.onnx").write_bytes(b"not a graph")
    write_bundle(damaged, manifest)
    assert read_bundle(damaged).manifest.name == "colour"


def test_a_missing_graph(damaged) -> None:
    edit(damaged, lambda m: m["variants"]["fp32"]["graphs"].pop("decode_step"))
    with pytest.raises(ManifestError, match="'fp32' has the graphs encode, template, track; expected decode_step, "):
        read_bundle(damaged)


def tensor(graph: str, side: str, which: str, **values: object) -> Callable[[dict], object]:
    def change(manifest: dict) -> None:
        tensors = manifest["variants"]["fp32"]["graphs"][graph][side]
        next(t for t in tensors if t["name"] == which).update(values)

    return change


GRAPH_FAULTS = {
    "window is not bins long": (tensor("track", "inputs", "window", shape=[40]), "'track'.*window"),
    "other search size": (tensor("track", "inputs", "search", shape=[1, 32, 32, 3]), "'track'.*search"),
    "other template size": (tensor("template", "inputs", "templates", shape=[2, 64, 64, 3]), "'template'.*templates"),
    "other number of templates": (
        tensor("template", "inputs", "templates", shape=[1, 32, 32, 3]),
        "'template'.*templates",
    ),
    "state lost on the way": (tensor("template", "outputs", "template_keys", name="keys"), "'encode'.*keys"),
    "state of another shape": (
        tensor("encode", "inputs", "template_keys", shape=[1, 1, 1, 2, 4]),
        "'encode'.*template_keys",
    ),
    "memory of another shape": (tensor("decode_step", "inputs", "cross_keys", shape=[1, 1, 1, 5, 43]), "cross_keys"),
    "memory of another rank": (tensor("encode", "outputs", "cross_keys", shape=[4, 43]), "'encode'.*cross_keys"),
    "memory of another name": (tensor("encode", "outputs", "cross_keys", name="memory"), "'encode'.*memory"),
    "cache of another shape": (
        tensor("decode_step", "outputs", "present_keys", shape=[1, 1, 1, 4, 43]),
        "present_keys",
    ),
    "a vocabulary without START": (tensor("decode_step", "outputs", "logits", shape=[1, 42]), "logits"),
    "tokens of another type": (tensor("track", "outputs", "tokens", dtype="int32"), "tokens int32"),
    "five tokens": (tensor("track", "outputs", "likelihoods", shape=[1, 5]), "likelihoods"),
    "a tensor twice": (
        lambda m: m["variants"]["fp32"]["graphs"]["track"]["inputs"].append(
            m["variants"]["fp32"]["graphs"]["track"]["inputs"][0]
        ),
        "inputs of 'track'",
    ),
    "no state": (lambda m: m["variants"]["fp32"]["graphs"]["template"].update(outputs=[]), "no outputs"),
}


@pytest.mark.parametrize("fault", GRAPH_FAULTS)
def test_graphs_that_do_not_fit_together(damaged, fault) -> None:
    change, message = GRAPH_FAULTS[fault]
    edit(damaged, change)
    with pytest.raises(ManifestError, match=message):
        read_bundle(damaged)


def test_a_single_template_is_never_replaced(tmp_path) -> None:
    write_colour_bundle(tmp_path / "one", ColourNet(templates=1))
    edit(tmp_path / "one", lambda m: m["online"].update(update_interval=5))
    with pytest.raises(ManifestError, match="update_interval is 5 but the model has one template"):
        read_bundle(tmp_path / "one")


def test_corners_have_no_window(damaged) -> None:
    edit(damaged, lambda m: m["decoder"].update(order="corner"))
    edit(damaged, lambda m: m["variants"]["fp32"]["graphs"]["track"]["inputs"].pop())
    with pytest.raises(ManifestError, match=r"online\.window is 0\.5 but a box is written as its corners"):
        read_bundle(damaged)
    edit(damaged, lambda m: m["online"].update(window=0.0))
    assert read_bundle(damaged).manifest.kind == "seqtrack"


# Archives


def test_an_archive_that_cannot_be_written_leaves_nothing(colour_bundle, tmp_path) -> None:
    (tmp_path / "colour.zip").mkdir()
    with pytest.raises(OSError, match=r"colour\.zip"):
        pack(colour_bundle.root, tmp_path / "colour.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["colour.zip"]


def test_an_archive_reads_as_its_directory(colour_bundle, tmp_path) -> None:
    archive = pack(colour_bundle.root, tmp_path / "colour.zip")
    assert sorted(os.listdir(tmp_path)) == ["colour.zip"]
    bundle = read_bundle(archive)
    assert bundle.manifest == colour_bundle.manifest
    assert bundle.source == archive
    for name in colour_bundle.manifest.files:
        assert (bundle.root / name).read_bytes() == (colour_bundle.root / name).read_bytes()


def test_what_lies_in_the_temporary_folder_is_no_part_of_an_archive(colour_bundle, tmp_path, monkeypatch) -> None:
    archive = pack(colour_bundle.root, tmp_path / "colour.zip")
    (tmp_path / "temporary").mkdir()
    for name in colour_bundle.manifest.files:
        (tmp_path / "temporary" / name).symlink_to("/usr")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert read_bundle(archive).manifest == colour_bundle.manifest


def test_equal_bundles_pack_to_equal_bytes(colour_bundle, damaged, tmp_path) -> None:
    for file in damaged.iterdir():
        os.utime(file, (1e9, 1e9))
    one, two = pack(colour_bundle.root, tmp_path / "1.zip"), pack(damaged, tmp_path / "2.zip")
    assert one.read_bytes() == two.read_bytes()


def test_unpacked_files_live_as_long_as_the_bundle(colour_bundle, tmp_path) -> None:
    bundle = read_bundle(pack(colour_bundle.root, tmp_path / "colour.zip"))
    root = bundle.root
    assert (root / "track.onnx").exists()
    del bundle
    gc.collect()
    assert not root.exists()


def test_a_refused_archive_leaves_nothing_behind(damaged, tmp_path, monkeypatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    (damaged / "track.onnx").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"track.onnx"):
        read_bundle(zipped(damaged, tmp_path / "bad.zip"))
    gc.collect()
    assert list(scratch.iterdir()) == []


def test_pack_refuses_a_damaged_bundle(damaged, tmp_path) -> None:
    (damaged / "track.onnx").unlink()
    with pytest.raises(IntegrityError):
        pack(damaged, tmp_path / "bad.zip")
    assert not (tmp_path / "bad.zip").exists()


FORKING = """
import os, sys
from edgetrack.bundle import read_bundle
bundle = read_bundle(sys.argv[1])
if os.fork() == 0:
    sys.exit()
os.wait()
print(bundle.root, sorted(os.listdir(bundle.root)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_leaves_what_was_unpacked_to_its_parent(colour_bundle, tmp_path) -> None:
    archive = pack(colour_bundle.root, tmp_path / "colour.zip")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FORKING, str(archive)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    root, _, files = shown.partition(" ")
    assert files.strip() == str(sorted(colour_bundle.manifest.files))
    assert not Path(root).exists()  # once the parent has ended


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil"])
def test_a_member_may_not_leave_the_archive(damaged, tmp_path, path) -> None:
    archive = zipped(damaged, tmp_path / "bad.zip")
    with zipfile.ZipFile(archive, "a") as out:
        out.writestr(path, b"evil")
    with pytest.raises(UnsafePathError, match="evil"):
        read_bundle(archive)


def test_a_member_may_not_be_a_link(damaged, tmp_path) -> None:
    archive = zipped(damaged, tmp_path / "bad.zip")
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as out:
        out.writestr(link, "/etc/hostname")
    with pytest.raises(UnsafePathError, match="'link' is a symbolic link"):
        read_bundle(archive)


def test_an_archive_that_unpacks_to_too_much(damaged, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bundle_module, "_ALWAYS_ALLOWED_BYTES", 1 << 16)
    with (damaged / "weights.bin").open("wb") as file:
        file.truncate(32 << 20)  # zeros: a thousandth of it when packed
    edit(damaged, lambda m: m["files"].update({"weights.bin": {"sha256": "0" * 64, "bytes": 32 << 20}}))
    with pytest.raises(UnsafePathError, match=r"would unpack to \d+ bytes, more than the \d+ allowed"):
        read_bundle(zipped(damaged, tmp_path / "bomb.zip"))


def test_an_archive_whose_manifest_unpacks_to_too_much(damaged, tmp_path) -> None:
    with (damaged / "manifest.json").open("ab") as file:
        file.write(b" " * (17 << 20))
    archive = zipped(damaged, tmp_path / "bomb.zip")
    assert archive.stat().st_size < 1 << 20
    with pytest.raises(ManifestError, match="unpacks to more than"):
        read_bundle(archive)


def test_a_member_that_lies_about_its_size(damaged, tmp_path) -> None:
    """The archive and the manifest agree on 10 bytes where a megabyte is packed."""
    (damaged / "weights.bin").write_bytes(bytes(1 << 20))
    edit(damaged, lambda m: m["files"].update({"weights.bin": {"sha256": "0" * 64, "bytes": 10}}))
    archive = zipped(damaged, tmp_path / "liar.zip")
    data = bytearray(archive.read_bytes())
    # The unpacked size stands 8 bytes before the name in the local header, 22 before it in the central directory.
    for name, distance in ((data.find(b"weights.bin"), 8), (data.rfind(b"weights.bin"), 22)):
        assert struct.unpack_from("<L", data, name - distance) == (1 << 20,)
        struct.pack_into("<L", data, name - distance, 10)
    archive.write_bytes(data)
    with zipfile.ZipFile(archive) as check:
        assert check.getinfo("weights.bin").file_size == 10
    with pytest.raises(IntegrityError):
        read_bundle(archive)


def test_an_archive_without_a_listed_file(damaged, tmp_path) -> None:
    names = [name for name in os.listdir(damaged) if name != "track.onnx"]
    with pytest.raises(IntegrityError, match=r"'track.onnx' is listed in the manifest but missing from the archive"):
        read_bundle(zipped(damaged, tmp_path / "bad.zip", names))


def test_an_archive_with_the_bundle_in_a_folder(damaged, tmp_path) -> None:
    zipped(damaged.parent, tmp_path / "bad.zip", ["damaged/manifest.json"])
    with pytest.raises(ManifestError, match=r"no manifest.json at the top"):
        read_bundle(tmp_path / "bad.zip")


def test_every_flipped_byte_of_an_archive_is_noticed_or_harmless(damaged, tmp_path) -> None:
    """Bytes all over the archive, flipped one at a time, give a named error or the very same files."""
    archive = pack(damaged, tmp_path / "good.zip")
    data = archive.read_bytes()
    step = max(1, len(data) // 120)
    refused = 0
    for at in range(0, len(data), step):
        flipped = bytearray(data)
        flipped[at] ^= 0x55
        archive.write_bytes(flipped)
        try:
            bundle = read_bundle(archive)
        except BundleError:
            refused += 1
        else:
            for name in bundle.manifest.files:
                assert (bundle.root / name).read_bytes() == (damaged / name).read_bytes()
    assert refused > 60


# Writing


def test_writing_checks_first(tmp_path) -> None:
    net = ColourNet()
    write_graphs(tmp_path, net)
    (tmp_path / "track.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"track.onnx"):
        write_bundle(tmp_path, manifest_of(net))
    assert not (tmp_path / "manifest.json").exists()


def test_writing_again_replaces_the_manifest(damaged) -> None:
    (damaged / "weights").mkdir()
    (damaged / "weights" / "track.bin").write_bytes(b"sidecar")
    manifest = read_bundle(damaged).manifest.model_copy(update={"description": "with a sidecar"})
    write_bundle(damaged, manifest)
    again = read_bundle(damaged).manifest
    assert again.description == "with a sidecar"
    assert again.files["weights/track.bin"].bytes == 7
    assert not [name for name in os.listdir(damaged) if name.startswith(".")]


# Finding


def test_finding_by_path(colour_bundle) -> None:
    assert find_model(colour_bundle.root) == colour_bundle.root
    assert find_model(str(colour_bundle.root)) == colour_bundle.root


def test_finding_by_shipped_name(colour_bundle, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(bundle_module, "_SHIPPED", colour_bundle.root.parent)
    assert shipped_models() == ("colour",)
    (tmp_path / "colour").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model("colour") == colour_bundle.root
    assert find_model("./colour") == Path("colour")


def test_an_unknown_name_lists_the_shipped_ones(colour_bundle, monkeypatch) -> None:
    monkeypatch.setattr(bundle_module, "_SHIPPED", colour_bundle.root.parent)
    with pytest.raises(BundleError, match=r"no model 'color'.*colour"):
        find_model("color")


def test_a_packager_that_left_the_models_out_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(bundle_module, "_SHIPPED", tmp_path / "models")
    with pytest.raises(BundleError, match="none is here: the folder models was left out when edgetrack was packed"):
        find_model("seqtrack-nano")


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "a\0b"])
def test_a_name_that_cannot_be_a_path(name) -> None:
    with pytest.raises(BundleError, match=r"no model .*: expected a shipped one"):
        find_model(name)


@pytest.mark.parametrize("model", [None, "", 3])
def test_what_is_no_name(model) -> None:
    with pytest.raises(BundleError, match=f"got the model {model!r}; expected a shipped one"):
        find_model(model)


def test_shipped_models_are_sound() -> None:
    for name in shipped_models():
        assert read_bundle(find_model(name)).manifest.name == name
