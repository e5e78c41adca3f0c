"""Sequences whose target vanishes and returns: the truth is exact, the target gone while it is, and far when far."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.datasets import Dataset, Sequence, read_dataset
from benchmarks.results import ResultsError
from benchmarks.returns import Lengths, Returning, erase, returning, shifted, write
from edgetrack.sources import read_image

LENGTHS = Lengths(before=5, gone=20, after=4)


@pytest.fixture
def drawn(dataset_folder: Path) -> Dataset:
    return read_dataset(str(dataset_folder), ("plain",))


def is_orange(frame: np.ndarray) -> np.ndarray:
    return frame[..., 2].astype(int) - frame[..., 0] > 120


def seen(frame: np.ndarray) -> list[int]:
    """x, y, w, h of what is orange."""
    ys, xs = np.nonzero(is_orange(frame))
    return [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]


def made(data: Dataset, far: bool, **options: int) -> tuple[Sequence, ...]:
    return returning(data, far, lengths=LENGTHS, **options)[0].sequences  # type: ignore[arg-type]


@pytest.mark.parametrize("far", [False, True])
def test_the_target_is_where_the_truth_says_or_nowhere(drawn: Dataset, far: bool) -> None:
    (sequence,) = made(drawn, far)
    assert sequence.absent.tolist() == [False] * 5 + [True] * 20 + [False] * 4
    for index, box in enumerate(sequence.truth):
        frame = sequence.read(index)
        if sequence.absent[index]:
            assert not is_orange(frame).any()
            assert np.isnan(box).all()
        else:
            np.testing.assert_allclose(seen(frame), box)
            assert is_orange(frame).sum() == box[2] * box[3]  # once, and not in what mirrors it


def test_the_film_goes_on_and_back_so_that_nothing_jumps(drawn: Dataset) -> None:
    (sequence,) = made(drawn, far=False)
    x = sequence.origin[:, 0] if isinstance(sequence, Returning) else None
    assert x is not None
    assert set(np.abs(np.diff(x))) == {4}  # as the square moves in each frame of the film
    assert len({path.name for path in sequence.frames}) == 12


@pytest.mark.parametrize(
    ("lengths", "last", "here"),
    # The square goes right for 12 frames and back again: seen last near its place, and at either end, it at the other.
    [(LENGTHS, 4, 3), (Lengths(before=12, gone=10, after=1), 11, 0), (Lengths(before=23, gone=10, after=1), 0, 11)],
)
def test_far_is_outside_of_where_a_local_tracker_looks(drawn: Dataset, lengths: Lengths, last: int, here: int) -> None:
    plain = drawn.sequences[0]
    places = set()
    for sequence in returning(drawn, far=True, draws=20, lengths=lengths)[0].sequences:
        assert isinstance(sequence, Returning)
        back = lengths.before + lengths.gone
        np.testing.assert_array_equal(sequence.origin[back], plain.truth[here])
        x, y, w, h = sequence.truth[back]
        for box in (plain.truth[last], plain.truth[here]):
            side = 5 * np.sqrt(box[2] * box[3])
            cx, cy = box[:2] + box[2:] / 2
            outside = x >= cx + side / 2 or x + w <= cx - side / 2 or y >= cy + side / 2 or y + h <= cy - side / 2
            assert outside
        after = sequence.truth[back:]
        assert (after[:, :2] >= 0).all()
        assert (after[:, :2] + after[:, 2:] <= (160, 120)).all()
        places.add(sequence.shift)
    assert len(places) > 10


def test_draws_differ_in_what_is_shown_and_near_there_is_but_one(drawn: Dataset) -> None:
    draws = made(drawn, far=True, draws=5)
    assert len({sequence.shown for sequence in draws}) == len({sequence.shift for sequence in draws}) > 1  # type: ignore[attr-defined]
    assert [sequence.name for sequence in made(drawn, far=False, draws=5)] == ["plain-0"]


def test_what_is_made_is_judged_and_is_kept_apart_by_how_it_was_made(drawn: Dataset) -> None:
    """Results are kept by the name of their dataset."""
    ways = [(False, 0, LENGTHS), (True, 0, LENGTHS), (True, 1, LENGTHS), (True, 0, Lengths(5, 20, 5))]
    sets = [returning(drawn, far, seed, lengths=lengths)[0] for far, seed, lengths in ways]
    assert {data.protocol for data in sets} == {"oxuva"}
    assert len({data.name for data in sets}) == len(ways)


def test_the_seed_decides_and_other_sequences_do_not(dataset_folder: Path) -> None:
    def shifts(*names: str, seed: int = 0) -> dict[str, tuple[int, int]]:
        return {s.name: s.shift for s in made(read_dataset(str(dataset_folder), names), far=True, seed=seed, draws=2)}  # type: ignore[attr-defined]

    alone = shifts("plain")
    assert sorted(alone) == ["plain-0", "plain-1"]
    assert alone == shifts("plain")
    assert alone != shifts("plain", seed=1)
    renamed = Dataset("d", "ope", (replace(read_dataset(str(dataset_folder), ("plain",)).sequences[0], name="other"),))
    assert [s.shift for s in made(renamed, far=True, draws=2)] != list(alone.values())  # type: ignore[attr-defined]
    together = Dataset("both", "ope", tuple(reversed(read_dataset(str(dataset_folder)).sequences)))
    assert {s.name: s.shift for s in made(together, far=True, draws=2)}.items() >= alone.items()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("box", "absent"), [((np.nan,) * 4, True), ((20, 50, 24, 24), True), ((np.nan,) * 4, False), ((0,) * 4, False)]
)
def test_a_sequence_is_used_up_to_where_its_target_first_goes_by_itself(
    drawn: Dataset, box: tuple[float, ...], absent: bool
) -> None:
    plain = drawn.sequences[0]
    truth = np.concatenate([plain.truth, plain.truth])
    flags = np.zeros(24, bool)
    flags[12], truth[12] = absent, box
    longer = Sequence("plain", plain.frames * 2, truth, flags)
    (cut,), (whole,) = (made(Dataset("d", "ope", (each,)), far=True) for each in (longer, plain))
    np.testing.assert_array_equal(cut.truth, whole.truth)


def test_what_cannot_return_far_away_is_left_out_near_and_far(drawn: Dataset) -> None:
    plain = drawn.sequences[0]
    large = Sequence("large", plain.frames, plain.truth * 0 + (30, 30, 60, 60), plain.absent)
    short = Sequence("short", plain.frames[:11], plain.truth[:11], plain.absent[:11])
    for far in (False, True):
        both, left_out = returning(Dataset("d", "ope", (large, short, plain)), far, lengths=LENGTHS)
        assert [s.name for s in both.sequences] == ["plain-0"]
        assert left_out == ("large", "short")
        with pytest.raises(ResultsError, match="of its 2 sequences none"):
            returning(Dataset("d", "ope", (large, short)), far, lengths=LENGTHS)


def test_erasing_takes_the_target_and_nothing_else(drawn: Dataset) -> None:
    frame, box = drawn.sequences[0].read(0), drawn.sequences[0].truth[0]
    before = frame.copy()
    x, y, w, h = box.astype(int)
    erased = erase(frame, box)
    np.testing.assert_array_equal(frame, before)
    assert is_orange(frame).sum() == w * h
    assert not is_orange(erased).any()
    outside = np.ones(frame.shape[:2], bool)
    outside[y - 4 : y + h + 4, x - 4 : x + w + 4] = False
    np.testing.assert_array_equal(erased[outside], frame[outside])


def test_what_is_painted_has_the_light_and_the_texture_of_the_surroundings() -> None:
    rng = np.random.default_rng(0)
    light = np.linspace(40, 200, 320)
    frame = (light[None, :, None] + rng.normal(0, 6, (240, 320, 3))).clip(0, 255).astype(np.uint8)
    frame[100:130, 140:180] = 0
    painted = erase(frame, np.asarray([140.0, 100.0, 40.0, 30.0]))[100:130, 140:180] - light[None, 140:180, None]
    assert np.abs(painted.mean(axis=(0, 2))).max() < 12
    assert painted.std() == pytest.approx(6, abs=2)


def test_an_object_beside_the_target_is_not_painted_over_it() -> None:
    frame = np.full((120, 200, 3), 90, np.uint8)
    frame[50:80, 90:110] = (30, 120, 230)
    for x in (50, 132):
        frame[52:78, x : x + 18] = (200, 40, 40)
    painted = erase(frame, np.asarray([90.0, 50.0, 20.0, 30.0]))[50:80, 90:110].astype(int)
    assert np.abs(painted - 90).max() < 10


def test_erasing_a_box_over_the_border_leaves_a_frame(drawn: Dataset) -> None:
    frame = drawn.sequences[0].read(0)
    for box in ((-20, -20, 40, 40), (150, 100, 60, 60), (-50, -50, 300, 300), (500, 500, 10, 10)):
        erased = erase(frame, np.asarray(box, float))
        assert (erased.shape, erased.dtype) == (frame.shape, np.uint8)


def test_a_shifted_picture_is_the_same_where_it_can_be_seen(drawn: Dataset) -> None:
    frame, box = drawn.sequences[0].read(0), drawn.sequences[0].truth[0]
    for dx, dy in ((30, -20), (-15, 10), (0, 0), (0, 40)):
        moved = shifted(frame, box, (dx, dy))
        for y, x in ((60, 70), (40, 50), (70, 90)):
            np.testing.assert_array_equal(moved[y + dy, x + dx], frame[y, x])
    np.testing.assert_array_equal(shifted(frame, box, (0, 0)), frame)


def test_command_writes_them_for_other_tools(slow_folder: Path, tmp_path: Path) -> None:
    arguments = ["returns", "--dataset", str(slow_folder), "--out", str(tmp_path / "far")]
    result = CliRunner().invoke(app, [*arguments, "--draws", "2", "--seed", "5"])
    assert result.exit_code == 0, result.output
    written = read_dataset(str(tmp_path / "far")).sequences
    expected = returning(read_dataset(str(slow_folder)), far=True, seed=5, draws=2)[0].sequences
    assert [s.name for s in written] == ["slow-0", "slow-1"]
    assert [path.name for path in written[0].frames[:2]] == ["00000001.jpg", "00000002.jpg"]  # as GOT-10k counts
    for found, wanted in zip(written, expected, strict=True):
        np.testing.assert_allclose(found.truth, wanted.truth, atol=1e-3)
        np.testing.assert_array_equal(found.absent, wanted.absent)
        for index in (0, 40, 100):
            difference = read_image(found.frames[index]).astype(int) - wanted.read(index)
            assert np.abs(difference).mean() < 6  # JPEG
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert "choose another --out" in again.output


def test_attributes_are_written_too(drawn: Dataset, tmp_path: Path) -> None:
    hard = Dataset("d", "ope", (replace(drawn.sequences[0], attributes=("OCC", "SV")),))
    write(returning(hard, far=False, lengths=LENGTHS)[0], tmp_path / "near")
    assert read_dataset(str(tmp_path / "near")).sequences[0].attributes == ("OCC", "SV")
