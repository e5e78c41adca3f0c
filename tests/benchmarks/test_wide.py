"""Small targets in a wide view: the truth is exact, and the film is one of nine pictures, in another place at last."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_returns import is_orange, seen
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.datasets import Dataset, read_dataset
from benchmarks.results import ResultsError
from benchmarks.returns import Lengths, erase
from benchmarks.wide import Wide, wide
from edgetrack.sources import read_image

LENGTHS = Lengths(before=5, gone=7, after=4)


@pytest.fixture
def drawn(dataset_folder: Path) -> Dataset:
    """A square on grey; and beside it blue pictures, in which nothing is taken for it."""
    (plain,) = read_dataset(str(dataset_folder), ("plain",)).sequences
    path = dataset_folder.parent / "blue.png"
    cv2.imwrite(str(path), np.full((90, 200, 3), (200, 60, 20), np.uint8))
    return Dataset("d", "ope", (plain, replace(plain, name="blue", frames=(path,) * 12)))


def made(data: Dataset, draws: int = 8, seed: int = 0) -> list[Wide]:
    found = [each for each in wide(data, seed, draws, LENGTHS)[0].sequences if each.name.startswith("plain")]
    assert all(isinstance(each, Wide) for each in found)
    return found  # type: ignore[return-value]


def test_the_target_is_where_the_truth_says_or_nowhere(drawn: Dataset) -> None:
    for sequence in made(drawn):
        assert sequence.absent.tolist() == [False] * 5 + [True] * 7 + [False] * 4
        for index, box in enumerate(sequence.truth):
            frame = sequence.read(index)
            assert frame.shape == (360, 480, 3)
            if sequence.absent[index]:
                assert not is_orange(frame).any()
                assert np.isnan(box).all()
            else:
                np.testing.assert_allclose(seen(frame), box)
                assert is_orange(frame).sum() == box[2] * box[3]


def test_the_film_is_one_of_nine_pictures_and_in_another_place_in_the_end(drawn: Dataset) -> None:
    plain, places = drawn.sequences[0], set()
    for sequence in made(drawn, draws=30):
        before, after = sequence.places
        assert before != after
        places.add(sequence.places)
        for index, (column, row) in ((0, before), (6, before), (12, after)):
            frame, film = sequence.read(index), plain.read([0, 6, 10][[0, 6, 12].index(index)])
            fields = frame.reshape(3, 120, 3, 160, 3).transpose(0, 2, 1, 3, 4)
            wanted = erase(film, sequence.origin[index]) if sequence.absent[index] else film
            np.testing.assert_array_equal(fields[row, column], wanted)
            rest = [fields[r, c] for r in range(3) for c in range(3) if (c, r) != (column, row)]
            assert (np.asarray(rest) == (200, 60, 20)).all()
    assert len(places) > 15
    assert {place for pair in places for place in pair} == {(c, r) for c in range(3) for r in range(3)}


def test_draws_and_seeds_differ_and_each_is_the_same_again(drawn: Dataset) -> None:
    first = made(drawn)
    assert [each.name for each in first] == [f"plain-{draw}" for draw in range(8)]
    assert len({each.shown for each in first}) == len({each.places for each in first}) > 4
    assert [each.shown for each in made(drawn)] == [each.shown for each in first]
    assert [each.places for each in made(drawn, seed=1)] != [each.places for each in first]
    data, other = wide(drawn, 0, 1, LENGTHS)[0], wide(drawn, 1, 1, LENGTHS)[0]
    assert data.protocol == "oxuva"
    assert data.name != other.name


def test_what_stands_beside_it_is_part_of_what_is_shown(drawn: Dataset, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "red.png"), np.zeros((90, 200, 3), np.uint8))
    plain, blue = drawn.sequences
    others = Dataset("d", "ope", (plain, replace(blue, frames=(tmp_path / "red.png",) * 12)))
    assert made(others, draws=1)[0].shown != made(drawn, draws=1)[0].shown


def test_another_target_of_the_same_film_is_not_beside_it(drawn: Dataset) -> None:
    """Else the target would be in sight where it is said to be gone; alone, it is on black."""
    plain = drawn.sequences[0]
    alone = Dataset("d", "ope", (plain, replace(plain, name="again", truth=plain.truth + 3)))
    for sequence in made(alone, draws=2):
        column, row = sequence.places[0]
        frame = sequence.read(0)
        frame[row * 120 : (row + 1) * 120, column * 160 : (column + 1) * 160] = 0
        assert not frame.any()


def test_a_target_that_is_not_in_sight_for_long_is_left_out(drawn: Dataset) -> None:
    plain, blue = drawn.sequences
    short = replace(plain, name="short", frames=plain.frames[:11], truth=plain.truth[:11], absent=plain.absent[:11])
    both, left_out = wide(Dataset("d", "ope", (short, blue)), lengths=LENGTHS)
    assert [each.name for each in both.sequences] == ["blue-0"]
    assert left_out == ("short",)
    with pytest.raises(ResultsError, match="in none of its 1 sequences"):
        wide(Dataset("d", "ope", (short,)), lengths=LENGTHS)


def test_command_writes_them(dataset_folder: Path, tmp_path: Path) -> None:
    arguments = ["returns", "--dataset", str(dataset_folder), "--sequence", "plain", "--out", str(tmp_path / "wide")]
    result = CliRunner().invoke(app, [*arguments, "--place", "wide", "--draws", "2", "--seed", "5"])
    assert result.exit_code == 0, result.output
    written = read_dataset(str(tmp_path / "wide")).sequences
    expected = wide(read_dataset(str(dataset_folder), ("plain",)), 5, 2)[0].sequences
    assert [each.name for each in written] == ["plain-0", "plain-1"]
    for found, wanted in zip(written, expected, strict=True):
        np.testing.assert_allclose(found.truth, wanted.truth, atol=1e-3)
        difference = read_image(found.frames[100]).astype(int) - wanted.read(100)
        assert np.abs(difference).mean() < 6  # JPEG
