"""What is in a csv or npz file, and what is wrong with it."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared.data_files import csv_header, image_archives, inspect, tfrecords, thumbnails
from shared.data_files.columns import Sample
from shared.errors import InvalidInput


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "upload"
    path.write_bytes(content)
    return path


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _refused(folder: Path, content: bytes) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        inspect(_file(folder, content))
    assert caught.value.code == "data_invalid"
    assert caught.value.field == "file"
    return caught.value


def test_a_csv_file_is_described(tmp_path: Path) -> None:
    rows = b'a,b,species,when\n1,2.5,setosa,\n2,1e3,virginica,\n-3,nan,setosa,\n4,,"x,y",\n5,1,z,\n6,1,z,\n'
    kind, info = inspect(_file(tmp_path, rows))
    assert kind == "csv"
    assert info["delimiter"] == ","
    assert info["rows"] == 6
    plain = ("name", "kind", "missing", "min", "max", "not_finite", "values", "number_share")
    assert [{key: column[key] for key in plain if key in column} for column in info["columns"]] == [
        {"name": "a", "kind": "integer", "missing": 0, "min": -3, "max": 6,
         "values": {"1": 1, "2": 1, "-3": 1, "4": 1, "5": 1, "6": 1}},
        {"name": "b", "kind": "number", "missing": 1, "min": 1.0, "max": 1000.0, "not_finite": 1,
         "values": {"2.5": 1, "1e3": 1, "nan": 1, "1": 2}},
        {"name": "species", "kind": "text", "missing": 0, "number_share": 0.0,
         "values": {"setosa": 2, "virginica": 1, "x,y": 1, "z": 2}},
        {"name": "when", "kind": "empty", "missing": 6},
    ]  # fmt: skip
    assert info["preview"] == [
        ["1", "2.5", "setosa", ""], ["2", "1e3", "virginica", ""], ["-3", "nan", "setosa", ""],
        ["4", "", "x,y", ""], ["5", "1", "z", ""],
    ]  # fmt: skip


def test_columns_have_statistics(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).normal(1e6, 2.0, 3000)
    names = [f"name {index % 70}" for index in range(3000)]
    rows = "".join(
        f"{number!r},{name},{index}\n"
        for index, (number, name) in enumerate(zip(numbers.tolist(), names, strict=True))
    )
    _, info = inspect(_file(tmp_path, f"x,n,i\n{rows}".encode()))
    x, name, index = info["columns"]
    assert (x["count"], name["count"], x["distinct"], name["distinct"]) == (3000, 3000, None, 70)
    assert x["mean"] == pytest.approx(numbers.mean(), rel=1e-12)
    assert x["std"] == pytest.approx(numbers.std(), rel=1e-6)
    assert x["quantiles"]["0.5"] == pytest.approx(np.median(numbers), abs=0.01)
    assert index["quantiles"] == {
        "0.01": 30.0, "0.05": 150.0, "0.25": 750.0, "0.5": 1500.0, "0.75": 2249.0, "0.95": 2849.0, "0.99": 2969.0
    }  # fmt: skip
    assert len(name["top"]) == 10
    assert set(name["top"].values()) == {43}


def test_a_sample_of_a_long_stream_is_an_even_one() -> None:
    sample = Sample()
    for start in range(0, 200_000, 7_000):
        sample.take([float(number) for number in range(start, min(start + 7_000, 200_000))])
    assert len(sample.values) == len(set(sample.values)) == 10_000
    assert sample.quantiles()["0.5"] == pytest.approx(100_000, rel=0.03)
    assert sample.quantiles()["0.95"] == pytest.approx(190_000, rel=0.01)


def _png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def _packed(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _tar(members: dict[str, bytes], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [_packed, lambda m: _tar(m, "w"), lambda m: _tar(m, "w:gz"),
                                  lambda m: _tar(m, "w:bz2"), lambda m: _tar(m, "w:xz")])  # fmt: skip
def test_archives_of_images_are_described(tmp_path: Path, pack: Any) -> None:
    members = {"pets/cat/1.png": _png(8, 4), "pets/cat/2.png": _png(16, 4), "pets/dog/1.png": _png(8, 8)}
    more = {
        "pets/dog/2.jpg": b"junk",
        "pets/readme.txt": b"x",
        "__MACOSX/cat/._1.png": b"",
        "../evil.png": b"x",
    }
    kind, info = inspect(_file(tmp_path, pack(members | more)))
    assert kind == "images"
    assert (info["images"], info["other_files"]) == (4, 1)
    assert info["folders"] == {"pets/cat": 2, "pets/dog": 2}
    assert info["formats"] == {".png": 3, ".jpg": 1}
    assert info["sizes"] == {
        "examined": 4, "broken": 1,
        "width": {"min": 8, "max": 16, "mean": 10.7}, "height": {"min": 4, "max": 8, "mean": 5.3},
    }  # fmt: skip
    names = [(image["name"], image["width"], image["height"]) for image in info["preview"]]
    assert names == [("pets/cat/1.png", 8, 4), ("pets/cat/2.png", 16, 4), ("pets/dog/1.png", 8, 8)]
    assert all(_picture(image["thumbnail"]).format == "PNG" for image in info["preview"])


def _picture(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "JPEG"), ("RGBA", "PNG"), ("1", "PNG"), ("I;16", "PNG"),
                                            ("P", "GIF"), ("L", "BMP"), ("RGB", "WEBP")])  # fmt: skip
def test_thumbnails_of_all_kinds_are_small(mode: str, kind: str) -> None:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (300, 900), dtype=np.uint8)
    image = (
        Image.fromarray(noise.astype(np.uint16) * 200)
        if mode == "I;16"
        else Image.fromarray(noise).convert(mode)
    )
    image.save(out, kind)
    uri = thumbnails.thumbnail_of(out.getvalue())
    assert uri is not None
    assert len(uri) < 6000
    assert _picture(uri).size == (64, 21)


def test_what_is_broken_or_a_bomb_has_no_thumbnail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _png(300, 300)
    assert thumbnails.thumbnail_of(whole[: len(whole) // 2]) is None
    assert thumbnails.thumbnail_of(b"") is None
    tiff = io.BytesIO()
    Image.new("L", (8, 8)).save(tiff, "TIFF")
    assert thumbnails.thumbnail_of(tiff.getvalue()) is None, "a format that training does not read"
    bomb = _png(20_000, 1_000)  # 20 megapixels in 20 kB
    assert len(bomb) < 50_000
    assert thumbnails.thumbnail_of(bomb) is None
    members = {f"c{folder}/{number}.png": _png(80, 80) for folder in range(9) for number in range(3)}
    _, info = inspect(_file(tmp_path, _packed({"a/0.png": bomb, **members})))
    assert [image["name"] for image in info["preview"]][:3] == ["a/0.png", "c0/0.png", "c0/1.png"]
    assert (len(info["preview"]), info["preview"][0]["thumbnail"]) == (8, None)


def test_bombs_and_broken_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_archives, "RATIO_SLACK_BYTES", 1000)
    for content in (_packed({"a/1.png": bytes(2_000_000)}), _tar({"a/1.png": bytes(2_000_000)}, "w:gz")):
        assert "claims to hold" in _refused(tmp_path, content).message
    whole = _tar({"a/1.png": _png(300, 300), "b/1.png": np.random.default_rng(1).bytes(9000)}, "w:gz")
    assert "broken or cut short" in _refused(tmp_path, whole[: len(whole) // 2]).message


def _record(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    return (
        head + struct.pack("<I", tfrecords._masked(head)) + data + struct.pack("<I", tfrecords._masked(data))
    )


# tf.train.Example with label = [3, -1], name = [b"red"], row = [0.5, 1.0], as TensorFlow 2.21 writes it
EXAMPLE = bytes.fromhex(
    "0a400a180a056c6162656c120f1a0d0a0b03ffffffffffffffffff010a0f0a046e616d6512070a050a03726564"
    "0a130a03726f77120c120a0a080000003f0000803f"
)


def test_tfrecords_are_described_without_tensorflow(tmp_path: Path) -> None:
    assert (
        tfrecords._masked(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF
    )
    content = _record(EXAMPLE) * 5
    for data, compression in ((content, None), (gzip.compress(content), "GZIP")):
        kind, info = inspect(_file(tmp_path, data))
        assert (kind, info["records"], info["compression"]) == ("tfrecord", 5, compression)
        assert info["features"] == {
            "label": {"kind": "int64", "length": [2, 2], "min": -1, "max": 3},
            "name": {"kind": "bytes", "length": [3, 3]},
            "row": {"kind": "float", "length": [2, 2], "min": 0.5, "max": 1.0},
        }
        assert info["preview"][0] == {"label": [3, -1], "name": ["red"], "row": [0.5, 1.0]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_record(EXAMPLE) + _record(EXAMPLE)[:-1], "Record 1 is broken"),
        (_record(EXAMPLE) + b"x" * 40, "Record 1 is broken"),
        (_record(EXAMPLE)[:-5] + b"x" + _record(EXAMPLE)[-4:], "Record 0 is broken"),
        (_record(b"\xff\xff\xff"), "Record 0 is not a tf.train.Example"),
        (_record(EXAMPLE) * 1005 + _record(EXAMPLE)[:-1], "Record 1005 is broken"),
    ],
    ids=["cut", "junk", "flipped", "no example", "cut late"],
)
def test_broken_tfrecords_name_the_record(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in _refused(tmp_path, content).message


@given(st.binary(max_size=400))
def test_any_bytes_are_described_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(InvalidInput):
        inspect(_file(Path(folder), content))
        inspect(_file(Path(folder), _record(content)))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    text = "\n".join(delimiter.join(row) for row in (("a", "b c", "d"), ("1", "2", "3")))
    _, info = inspect(_file(tmp_path, text.encode()))
    assert info["delimiter"] == delimiter
    assert [column["name"] for column in info["columns"]] == ["a", "b c", "d"]
    assert csv_header(tmp_path / "upload", delimiter) == {
        "columns": [{"name": "a"}, {"name": "b c"}, {"name": "d"}]
    }


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"\xef\xbb\xbfa,b\r\n1,2\r\n", 1),  # a byte order mark, and Windows' line ends
        (b"a,b\n1,2", 1),  # no line end at the end
        (b"a,b\n\n1,2\n\n", 1),  # empty lines
        (b'a,b\n"1\n2",3\n4,5\n', 2),  # a line end in a cell
        (b"a,b\n", 0),
        ("größe,b\n1,2\n".encode(), 1),
    ],
)
def test_csv_files_as_people_write_them(tmp_path: Path, content: bytes, rows: int) -> None:
    assert inspect(_file(tmp_path, content))[1]["rows"] == rows


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\n1,2\n", "empty"),
        (b"a,b\n1,2\n3\n", "Line 3 has 1 cells, but the header has 2"),
        (b"a,b\n1,2\n3,4,5\n", "Line 3 has 3 cells"),
        (b'a,b\n"x\ny",2\n3\n', "Line 4 has 1 cells"),
        (b'a,b\n1,2\n"3,4\n5,6\n', "Line 3 is not csv"),
        (b"a,,c\n1,2,3\n", "Column 2 has no name"),
        (b"a,b,a\n1,2,3\n", "Two columns are named 'a'"),
        (b"1,2,3\n4,5,6\n", "numbers only"),
        (b"a,b\n1,\xff\n", "not UTF-8"),
        (b"a,b\n1,2\n3,x\x00\n", "Line 3 has a NUL"),
        (b"\x00\x01\x02\xff", "not UTF-8"),
        (b"a\x00b,c\n1,2\n", "column 1"),
        (b"x" * 201 + b",c\n1,2\n", "column 1"),
        (b"\x1f\x8b\x08" + bytes(20), "compressed"),
        (b"PAR1 columns", "compressed"),
        (b"\x93NUMPY\x01\x00", "single .npy"),
        (b"a,b\n1," + b"x" * 200_000 + b"\n", "field limit"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_said_in_words(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in _refused(tmp_path, content).message


def test_wide_and_long_files_are_described_briefly(tmp_path: Path) -> None:
    header = ",".join(f"p{n}" for n in range(785))
    row = ",".join(str(n % 10) for n in range(785))
    _, info = inspect(_file(tmp_path, f"{header}\n{row}\n{row}\n".encode()))
    assert len(info["columns"]) == 785
    assert info["columns"][7] == {"name": "p7", "kind": "integer", "missing": 0, "min": 7, "max": 7}
    _, info = inspect(_file(tmp_path, b"a,b\n" + b"x" * 1000 + b",1\n"))
    assert "values" not in info["columns"][0]
    assert len(info["preview"][0][0]) == 200


def test_an_npz_file_is_described_without_loading_it(tmp_path: Path) -> None:
    content = _npz(
        x_train=np.zeros((4, 28, 28), np.uint8), y_train=np.arange(4), f=np.float32(3),
        t=np.array(["a", "bcd"]), b=np.array([True]), s=np.array([b"xy"]), empty=np.zeros((0, 3), ">f8"),
        big=np.array([1.5, np.nan], ">f4"), wide=np.array(["x" * 5000]), z=np.zeros(3, np.complex64),
    )  # fmt: skip
    kind, info = inspect(_file(tmp_path, content))
    assert kind == "npz"
    assert info["arrays"] == [
        {"name": "x_train", "shape": [4, 28, 28], "dtype": "uint8", "first": [0] * 8},
        {"name": "y_train", "shape": [4], "dtype": "int64", "first": [0, 1, 2, 3]},
        {"name": "f", "shape": [], "dtype": "float32", "first": [3.0]},
        {"name": "t", "shape": [2], "dtype": "str", "first": ["a", "bcd"]},
        {"name": "b", "shape": [1], "dtype": "bool", "first": [True]},
        {"name": "s", "shape": [1], "dtype": "bytes", "first": ["xy"]},
        {"name": "empty", "shape": [0, 3], "dtype": "float64", "first": []},
        {"name": "big", "shape": [2], "dtype": "float32", "first": [1.5, None]},
        {"name": "wide", "shape": [1], "dtype": "str", "first": []},
        {"name": "z", "shape": [3], "dtype": "complex64", "first": []},
    ]


def test_compressed_archives_and_fortran_order_are_read_too(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.asfortranarray(np.ones((3, 5), np.float16)))
    assert inspect(_file(tmp_path, buffer.getvalue()))[1]["arrays"] == [
        {"name": "x", "shape": [3, 5], "dtype": "float16", "first": [1.0] * 8}
    ]


def _zip(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


def _npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_npz(x=np.array([{"a": 1}], dtype=object)), "pickle"),
        (_npz(x=np.array([(1, 2.0)], dtype=[("a", int), ("b", float)])), "can't be trained on"),
        (_npz(x=np.array(["2020-01-01"], dtype="datetime64[D]")), "can't be trained on"),
        (_npz(x=np.arange(1000))[:-200], "broken or cut short"),
        (_npz(x=np.arange(1000))[:50], "broken or cut short"),
        (b"PK\x03\x04 nothing more", "broken or cut short"),
        (_zip(), "no arrays"),
        (_zip(readme__txt=b"hello"), "not a NumPy array"),
        (_zip(x__npy=b"hello"), "not a NumPy array"),
        (_zip(x__npy=b"\x93NUMPY\x01"), "not a NumPy array"),
        (_zip(x__npy=b"\x93NUMPY\x01\x00\xff"), "broken or cut short"),
        (_zip(x__npy=_npy("{'shape': (2,)}")), "can't be read"),
        (_zip(x__npy=_npy("__import__('os').abort()")), "can't be read"),
        (_zip(x__npy=_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}")), "can't be read"),
        (_zip(x__npy=_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", b"abc")), "cut short"),
        (_zip(x__npy=_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10**9,)}")), "can't be read"),
    ],
)
def test_what_is_wrong_with_an_npz_file_is_said_in_words(tmp_path: Path, content: bytes, words: str) -> None:
    error = _refused(tmp_path, content)
    assert words in error.message


def test_a_process_of_its_own_says_the_same(tmp_path: Path) -> None:
    path = _file(tmp_path, b"a,b\n1,2\n")
    run = subprocess.run([sys.executable, "-m", "shared.data_files", path], capture_output=True, check=True)
    kind, info = inspect(path)
    assert json.loads(run.stdout) == {"kind": kind, "info": info}
    path.write_bytes(b"a,b\n1\n")
    run = subprocess.run([sys.executable, "-m", "shared.data_files", path], capture_output=True, check=False)
    assert run.returncode == 1
    assert "Line 2" in json.loads(run.stdout)["error"]["message"]
