from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import numpy as np
import pandas as pd
import pytest

from fergeneral import DataError, Face
from fergeneral.storage import FaceTable, read_table, whole_file


def some_faces(count: int, seed: int = 0) -> list[Face]:
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    return [Face(draw(4), draw(5, 2), float(generator.random(dtype=np.float32)), draw(8), "m") for _ in range(count)]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz"])
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"faces{suffix}"
    photos = {"a,b.jpg": some_faces(2), "none.jpg": [], 'ü"ml.png': some_faces(1500, 1)}
    with FaceTable(path, 8) as table:
        for name, faces in photos.items():
            table.add(name, faces)
        assert not path.exists()  # until it is whole
    read = read_table(path)
    faces = [face for found in photos.values() for face in found]
    assert read["path"].tolist() == [name for name, found in photos.items() for _ in found]
    assert read["face"].tolist() == [*range(2), *range(1500)]
    assert (read["box"] == [face.box for face in faces]).all()
    assert (read["landmarks"] == [face.landmarks for face in faces]).all()
    assert (read["embedding"] == [face.embedding for face in faces]).all()
    assert read["score"] == pytest.approx([face.score for face in faces])
    assert set(read["model_id"]) == {"m"}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz"])
def test_a_table_without_faces_is_still_a_table(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"faces{suffix}"
    with FaceTable(path, 8):
        pass
    assert read_table(path)["embedding"].shape == (0, 8)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz"])
def test_after_an_error_the_old_file_stands(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"faces{suffix}"
    path.write_text("old")

    def write_half() -> None:
        with FaceTable(path, 8) as table:
            table.add("a", some_faces(1100))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz"])
def test_ctrl_c_leaves_what_was_added_in_a_table_of_its_own(tmp_path: Path, suffix: str) -> None:
    path, partial = tmp_path / f"faces{suffix}", tmp_path / f"faces.partial{suffix}"
    path.write_text("old")

    def interrupted(*names: str, keep: bool = True) -> str:
        table = FaceTable(path, 8, partial=partial if keep else None)
        with pytest.raises(KeyboardInterrupt) as caught, table:  # noqa: PT012
            for number, name in enumerate(names):
                table.add(name, some_faces(600, number))
            raise KeyboardInterrupt
        return "".join(getattr(caught.value, "__notes__", []))

    assert interrupted("a", keep=False) == interrupted() == ""
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert interrupted("a", "b", "c") == f"the faces found so far, up to those in c, are in {partial}"
    rows = read_table(partial)
    assert rows["path"].tolist() == [name for name in "abc" for _ in range(600)]
    faces = [face.embedding for number in range(3) for face in some_faces(600, number)]
    assert (rows["embedding"] == faces).all()
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_ctrl_c_in_the_middle_of_writing_loses_and_doubles_nothing(tmp_path: Path, suffix: str) -> None:
    """Ctrl-C comes between two lines of Python: here before each line in turn, by a trace."""
    partial = tmp_path / f"partial{suffix}"
    faces = some_faces(1024)

    def run(at: int) -> list[str]:
        """The notes of the interrupt before the line `at`; none if there are not so many."""
        lines: set[tuple[str, int]] = set()

        def trace(frame: FrameType, event: str, _: object) -> object:
            file = frame.f_code.co_filename
            if not file.endswith(("storage.py", "futures/thread.py", "futures/_base.py")):
                return None
            lines.add((file, frame.f_lineno))
            if len(lines) > at:
                sys.settrace(None)
                raise KeyboardInterrupt
            return trace

        try:
            with FaceTable(tmp_path / f"faces{suffix}", 8, partial=partial) as table:
                table.add("first", faces[:1])
                sys.settrace(trace)
                try:
                    table.add("second", faces[1:])
                finally:
                    sys.settrace(None)
        except KeyboardInterrupt as interrupt:
            return interrupt.__notes__
        return []

    at = 0
    while notes := run(at):
        rows = read_table(partial)["path"].tolist()
        assert rows in (["first"], ["first"] + ["second"] * 1023)
        assert len(rows) > 1 or "up to those in first," in notes[0]
        partial.unlink()
        at += 1
    assert at > 20


def test_pandas_reads_the_tables_as_they_are(tmp_path: Path) -> None:
    faces = some_faces(3)
    for suffix in (".parquet", ".csv"):
        with FaceTable(tmp_path / f"t{suffix}", 8) as table:
            table.add("p", faces)
    parquet = pd.read_parquet(tmp_path / "t.parquet")
    assert (np.stack(parquet["embedding"].to_list()) == [face.embedding for face in faces]).all()
    frame = pd.read_csv(tmp_path / "t.csv")
    assert frame[[f"embedding_{i}" for i in range(8)]].to_numpy() == pytest.approx(
        np.array([face.embedding for face in faces])
    )


def test_where_no_table_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must end in one of \.parquet, \.csv, \.npz"):
        FaceTable(tmp_path / "a.txt", 8)
    with pytest.raises(DataError, match="does not exist"):
        FaceTable(tmp_path / "no" / "a.csv", 8)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz", ".txt"])
def test_a_broken_table_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"\x00\x01 no table")
    with pytest.raises(DataError, match="broken"):
        read_table(path)


def test_whole_file_keeps_the_old_one_on_an_error(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")

    def fail() -> None:
        with whole_file(target) as temporary:
            temporary.write_text("ne")
            raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        fail()
    assert target.read_text() == "old"
    with whole_file(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1
