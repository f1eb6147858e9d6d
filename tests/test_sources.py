"""Where photos come from: each container's photos under their names, byte for byte, and damage as a photo's reason."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fergeneral import DataError, ImageError, load_image
from fergeneral.cli import main
from fergeneral.sources import Source, list_photos
from fergeneral.storage import read_table
from fergeneral.threads import map_ahead


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (shade, 1, 2)).save(file, "PNG")
    return file.getvalue()


def shade(source: Source) -> int:
    return load_image(source.read()).getpixel((0, 0))[0]


def reason(source: Source) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(source.read())
    return str(caught.value)


def write_tar(path: Path, members: dict[str, bytes], **options: Any) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_parquet(path: Path, values: list[Any], name: str = "image", group: int = 1000) -> Path:
    struct_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kind = struct_type if any(isinstance(value, dict) for value in values) else pa.binary()
    table = pa.table({"label": list(range(len(values))), name: pa.array(values, kind)})
    pq.write_table(table, path, row_group_size=group, data_page_size=1000, use_dictionary=False)
    return path


def test_folders_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/2.png", "a/1.png", "a.png", "a/deep/x.webp", "notes.txt", "a/table.parquet", "a/t.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)

    def names(recursive: bool) -> list[str]:
        return [os.path.relpath(source.path, tmp_path) for source in list_photos(tmp_path, recursive=recursive)]

    # The order that pathlib gives paths.
    expected = sorted(Path(name) for name in ("b.JPG", "a/2.png", "a/1.png", "a.png", "a/deep/x.webp"))
    assert names(True) == [str(path) for path in expected]
    assert names(False) == ["a.png", "b.JPG"]


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    file = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(file)).write_bytes(png(7))
    (source,) = list_photos(tmp_path)
    assert source.path == f"{tmp_path}/caf\\udce9.png"
    assert shade(source) == 7


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_members_are_read_in_place(tmp_path: Path, kind: int) -> None:
    long = "/".join(["d" * 60] * 2) + "/3.jpeg"
    members = {"1.png": png(1), "1.json": b"{}", "in/2.PNG": png(2), long: png(3), "0.txt": b"x" * 3000, "4.gif": b""}
    tar = write_tar(tmp_path / "shard.tar", members, format=kind)
    sources = list_photos([tar])
    assert [source.path for source in sources] == [f"{tar}/{name}" for name in ("1.png", "in/2.PNG", long, "4.gif")]
    assert [shade(source) for source in sources[:3]] == [1, 2, 3]
    assert "is empty" in reason(sources[3])
    assert sorted(os.listdir(tmp_path)) == ["shard.tar"]


def test_hostile_names_in_a_tar_are_only_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    names = ["../out.png", "/etc/out.png", "a\nb.png", "../out.png", "p.png/q.png", "x" * 300 + ".png", "C:\\out.png"]
    tar = tmp_path / "in" / "t.tar"
    with tarfile.open(tar, "w") as file:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = len(png(number))
            file.addfile(info, io.BytesIO(png(number)))
        for kind, name in ((tarfile.SYMTYPE, "link.png"), (tarfile.LNKTYPE, "hard.png"), (tarfile.FIFOTYPE, "f.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
        info = tarfile.TarInfo("folder.png")
        info.type = tarfile.DIRTYPE
        file.addfile(info)
    sources = list_photos(tar)
    assert len({source.path for source in sources}) == len(sources) == len(names) + 3
    assert sources[3].path == f"{tar}/../out.png#2"
    assert [shade(source) for source in sources[: len(names)]] == list(range(len(names)))
    assert ["link to /etc/passwd" in reason(source) for source in sources[-3:]] == [True, True, False]
    assert "no ordinary file" in reason(sources[-1])
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "t.tar"]


def test_a_tar_cut_off_anywhere_loses_no_photo_without_a_word(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", {f"{i}.png": png(i) for i in range(4)}).read_bytes()
    assert len(list_photos(tmp_path / "whole.tar")) == 4
    member = 512 + 512  # a header, and a photo padded to a block
    assert len(png(0)) <= 512
    for length in [0, 1, 511, 512, 513, 600, *range(1000, 4 * member, 331), 2 * member, 4 * member]:
        tar = tmp_path / "cut.tar"
        tar.write_bytes(whole[:length])
        *found, last = list_photos(tar)
        assert last.path == str(tar)
        assert "the archive cannot be read beyond" in reason(last)
        whole_ones = [source for source in found if source.path in {f"{tar}/{i}.png" for i in range(length // member)}]
        assert [shade(source) for source in whole_ones] == list(range(length // member))
        for source in found[len(whole_ones) :]:  # its header is there, its bytes may be
            with_all_bytes = length % member >= 512 + len(png(0))
            assert with_all_bytes or "cut off" in reason(source)


def test_damaged_and_hostile_tar_headers(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "t.tar", {f"{i}.png": png(i) for i in range(3)}).read_bytes()

    def found(data: bytes) -> list[Source]:
        (tmp_path / "t.tar").write_bytes(data)
        return list_photos(tmp_path / "t.tar")

    def with_size(field: bytes) -> bytes:
        header = bytearray(whole[1024:1536])
        header[124:136] = field
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return whole[:1024] + bytes(header) + whole[1536:]

    checksum = found(whole[:1024] + b"\xff" * 512 + whole[1536:])  # tarfile takes that for the end
    assert [source.path[-5:] for source in checksum] == ["0.png", "t.tar"]
    assert "beyond its first 1 images" in reason(checksum[1])
    back = found(with_size(b"\xff" * 4 + struct.pack(">q", -1024)))  # CVE-2025-8194: round and round
    assert [source.path[-5:] for source in back] == ["0.png", "t.tar"]
    assert "in a circle" in reason(back[1])
    giant = found(with_size(b"77777777777\0"))  # 8 GiB
    assert "more than" in reason(giant[1])
    assert "cannot be read beyond" in reason(giant[2])
    (nonsense,) = found(np.random.default_rng(0).bytes(3000))
    assert "cannot be read beyond its first 0 images" in reason(nonsense)
    with pytest.raises(DataError, match=r"no such file or folder: .*no\.tar"):
        list_photos(tmp_path / "no.tar")
    (tmp_path / "t.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match="decompress it first"):
        list_photos([tmp_path / "t.tar.gz"])


@pytest.mark.parametrize("as_struct", [False, True])
def test_parquet_rows(tmp_path: Path, as_struct: bool) -> None:
    values: list[Any] = [png(i) for i in range(100)]
    file = write_parquet(
        tmp_path / "p.parquet", [{"bytes": v, "path": None} for v in values] if as_struct else values, group=30
    )
    sources = list_photos(file)
    assert [source.path for source in sources] == [f"{file}#{i}" for i in range(100)]
    order = [*range(100), *np.random.default_rng(0).permutation(100).tolist()]  # also out of turn
    assert [shade(sources[i]) for i in order] == order


def test_rows_asked_for_nearly_in_turn_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_parquet(tmp_path / "p.parquet", [png(i % 256) for i in range(600)], group=250)
    starts: list[int] = []
    original = pq.ParquetFile.iter_batches

    def counted(self: Any, **options: Any) -> Iterator[Any]:
        starts.extend(options["row_groups"])
        return original(self, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    sources = list_photos(file)
    with ThreadPoolExecutor(8) as pool:  # as extract_many does it
        assert list(map_ahead(pool, shade, sources, ahead=24)) == [i % 256 for i in range(600)]
    assert starts == [0, 1, 2]
    assert shade(sources[599]) == 599 % 256
    assert shade(sources[251]) == 251  # back into the second row group: begun again
    assert starts == [0, 1, 2, 1]


def test_damaged_parquet(tmp_path: Path) -> None:
    rows = [png(i) + bytes(2000) for i in range(40)]
    file = write_parquet(tmp_path / "p.parquet", rows, group=10)
    data = bytearray(file.read_bytes())
    group = pq.ParquetFile(file).metadata.row_group(1)
    at = group.column(1).data_page_offset
    data[at : at + 40] = b"\xff" * 40
    file.write_bytes(data)
    sources = list_photos(file)
    good = [i for i in range(40) if not 10 <= i < 20]
    assert [shade(sources[i]) for i in good] == good
    for i in range(10, 20):
        assert "corrupt from row 10 on" in reason(sources[i])
    write_parquet(file, rows[:3])  # a file put in its place
    assert shade(sources[2]) == 2
    assert "3 rows now" in reason(sources[20])
    file.write_bytes(data[: len(data) // 2])
    (broken,) = list_photos(file)
    assert "cannot be opened" in reason(broken)
    file.unlink()
    assert "No such file" in reason(sources[0])
    with pytest.raises(DataError, match="is gone"):
        sources[0].check()


def test_odd_rows_of_parquet(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(9))
    values = [{"bytes": None, "path": str(secret)}, None, {"bytes": b"text", "path": None}, {"bytes": b"", "path": ""}]
    sources = list_photos(write_parquet(tmp_path / "p.parquet", values))
    assert "no bytes" in reason(sources[0])  # a path in a table from elsewhere is not followed
    assert "no bytes" in reason(sources[1])
    assert "not an image" in reason(sources[2])
    assert "is empty" in reason(sources[3])


def test_the_image_column_is_found_or_given(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "p.parquet", [png(3)], name="photo")
    with pytest.raises(DataError, match=r"no column .* columns of bytes: photo; others: label"):
        list_photos(file)
    with pytest.raises(DataError, match="called 'label'"):
        list_photos(file, column="label")
    assert shade(list_photos(file, column="photo")[0]) == 3
    both = pa.table({"bytes": [b"x"], "image": [png(4)], "jpg": ["text"]})
    pq.write_table(both, tmp_path / "b.parquet")
    assert shade(list_photos(tmp_path / "b.parquet")[0]) == 4


def test_hugging_face_datasets(tmp_path: Path) -> None:
    image = datasets.Image()
    (tmp_path / "file.png").write_bytes(png(2))
    cells = [{"bytes": png(1), "path": None}, {"bytes": None, "path": str(tmp_path / "file.png")}, None]
    cells.append({"bytes": None, "path": "/dev/zero"})
    features = datasets.Features({"image": image, "label": datasets.Value("int64")})
    dataset = datasets.Dataset.from_dict({"image": cells, "label": [0, 1, 2, 3]}, features=features)
    sources = list_photos(dataset)
    assert [source.path for source in sources] == ["dataset#0", "dataset#1", "dataset#2", "dataset#3"]
    assert [shade(source) for source in sources[:2]] == [1, 2]
    assert "no bytes" in reason(sources[2])
    assert "/dev/zero is no file here" in reason(sources[3])
    with pytest.raises(DataError, match="take one split"):
        list_photos(datasets.DatasetDict(train=dataset))
    with pytest.raises(DataError, match="take one split"):
        list_photos(dataset.to_iterable_dataset())
    with pytest.raises(DataError, match="columns of bytes: image; others: label"):
        list_photos(dataset, column="label")


def test_sources_travel(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    tar = write_tar(tmp_path / "t.tar", {"1.png": png(1)})
    sources = list_photos([tmp_path, tar, write_parquet(tmp_path / "p.parquet", [png(2)])])
    copies = pickle.loads(pickle.dumps(sources))
    assert copies == sources
    assert [shade(source) for source in copies] == [0, 1, 2]
    for source in copies:
        source.check()


def test_archives_and_tables_on_the_command_line(tmp_path: Path, random_folder: Path, photos: Path) -> None:
    with Image.open(photos / "astronaut.png") as image:
        buffer = io.BytesIO()
        image.convert("RGB").resize((200, 200)).save(buffer, "PNG")
    face = buffer.getvalue()
    tar = write_tar(tmp_path / "t.tar", {"a.png": face, "b.png": b"", "c.txt": b"text"})
    table = write_parquet(tmp_path / "p.parquet", [png(0), face], name="photo")
    arguments = ["extract", str(tar), str(table), "--column", "photo", "--model", str(random_folder), "--device", "cpu"]
    assert main([*arguments, "-o", str(tmp_path / "o.npz"), "--draw", str(tmp_path / "drawn")]) == 1  # b.png is empty
    assert read_table(tmp_path / "o.npz")["path"].tolist() == [f"{tar}/a.png", f"{table}#1"]
    assert sorted(os.listdir(tmp_path / "drawn")) == ["a.png", "p_0.jpg", "p_1.jpg"]
