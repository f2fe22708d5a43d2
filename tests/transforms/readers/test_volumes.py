# SPDX-License-Identifier: Apache-2.0
import gzip
import os
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

from bundle.transforms.readers import read_file

GREY = np.array([[0, 10, 20, 30, 40], [50, 60, 70, 80, 90], [100, 110, 120, 130, 255]], np.uint8)  # 3 rows, 5 columns
RGB = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)
ACROSS = GREY.T.copy()  # indices x, y


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 1), (1, 5, 3), (5, 1, 3), (5, 3, 1, 1), (1, 5, 3, 1)])
def test_a_plane_of_a_nifti_is_read_in_whatever_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = nibabel.Nifti1Image(ACROSS.reshape(shape), np.eye(4))
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert np.array_equal(read_file(str(tmp_path / "a.nii.gz")).pixels, GREY)


@pytest.mark.parametrize(("shape", "axes"), [((1, 5, 4), (1, 2, 0)), ((5, 1, 4), (0, 2, 1)), ((5, 4, 1), (0, 1, 2))])
def test_a_plane_across_other_axes_keeps_its_place(
    tmp_path: Path, shape: tuple[int, int, int], axes: tuple[int, int, int]
) -> None:
    plane = np.arange(20, dtype=np.uint8).reshape(5, 4)
    affine = np.array([[2.0, 0, 0, 7], [0, 3, 0, 8], [0, 0, 4, 9], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(plane.reshape(shape), affine), tmp_path / "a.nii")
    raw = read_file(str(tmp_path / "a.nii"))
    assert np.array_equal(raw.pixels, plane.T)
    assert np.array_equal(raw.affine, affine[:, [*axes, 3]])
    zooms = [(2.0, 3.0, 4.0)[axis] for axis in axes]
    assert raw.spacing == (zooms[1], zooms[0])


def test_colors_of_a_nifti(tmp_path: Path) -> None:
    across = np.ascontiguousarray(RGB.swapaxes(0, 1))
    structured = across.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    last = (across, across[:, :, None], across[:, :, None, None])
    for number, stored in enumerate((structured, structured[..., None], structured[None], *last)):
        path = tmp_path / f"{number}.nii"
        nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), path)
        raw = read_file(str(path))
        assert np.array_equal(raw.pixels, RGB), number
        assert raw.notes == (("the last axis, of length 3, is taken for colors",) if number in (3, 4) else ())


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 2), (2, 5, 6), (4, 5, 3, 2)])
def test_volumes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ValueError, match=r"a\.nii: image must be two-dimensional, got shape \("):
        read_file(str(tmp_path / "a.nii"))


def metaimage(path: Path, stored: np.ndarray, *, data: str = "LOCAL", channels: int = 1, **entries: str) -> Path:
    """Writes ``stored``, C order with the fastest axis last, as MetaImage."""
    sizes = stored.shape[: stored.ndim - (channels > 1)][::-1]
    kinds = {"uint8": "MET_UCHAR", "uint16": "MET_USHORT", "int16": "MET_SHORT", "float32": "MET_FLOAT"}
    header = {
        "ObjectType": "Image",
        "NDims": str(len(sizes)),
        "BinaryData": "True",
        "DimSize": " ".join(map(str, sizes)),
    }
    if channels > 1:
        header["ElementNumberOfChannels"] = str(channels)
    header |= {"ElementType": kinds[stored.dtype.newbyteorder("=").name]} | entries
    content = stored.tobytes()
    content = zlib.compress(content) if entries.get("CompressedData") == "True" else content
    text = "".join(f"{key} = {value}\n" for key, value in header.items()) + f"ElementDataFile = {data}\n"
    path.write_bytes(text.encode() + (content if data == "LOCAL" else b""))
    if data != "LOCAL" and "/" not in data:
        path.with_name(data).write_bytes(content)
    return path


def test_metaimage_is_read_upright(tmp_path: Path) -> None:
    paths = [
        metaimage(tmp_path / "a.mha", GREY),
        metaimage(tmp_path / "b.mha", GREY[None], CompressedData="True"),
        metaimage(tmp_path / "c.mhd", GREY, data="c.raw"),
        metaimage(tmp_path / "d.mhd", GREY, data="d.zraw", CompressedData="True"),
        metaimage(tmp_path / "e.mha", GREY.astype(">u2"), BinaryDataByteOrderMSB="True"),
        metaimage(tmp_path / "f.mha", GREY.astype(np.float32)),
    ]
    for path in paths:
        assert np.array_equal(read_file(str(path)).pixels, GREY), path
        assert np.array_equal(read_file(str(path), as_mask=True).pixels, GREY), path
    assert np.array_equal(read_file(str(metaimage(tmp_path / "g.mha", RGB, channels=3))).pixels, RGB)
    assert np.array_equal(read_file(str(metaimage(tmp_path / "h.mha", RGB[None], channels=3))).pixels, RGB)


@pytest.mark.parametrize("compressed", ["True", "False"])
@pytest.mark.parametrize("no", ["False", "false", "0"])
def test_a_metaimage_of_text_is_read(tmp_path: Path, no: str, compressed: str) -> None:
    for number, stored in enumerate((GREY, GREY.astype(">i2") - 300, GREY.astype(np.float32) / 7, RGB)):
        entries = {"BinaryData": no, "BinaryDataByteOrderMSB": str(stored.dtype.byteorder == ">")}
        path = metaimage(tmp_path / "a.mhd", stored, data="a.txt", channels=stored.size // GREY.size, **entries)
        text = "\n".join(" ".join(str(value) for value in row.ravel()) for row in stored).encode()
        (tmp_path / "a.txt").write_bytes(zlib.compress(text) if compressed == "True" else text)
        path.write_text(path.read_text().replace("DimSize", f"CompressedData = {compressed}\nDimSize"))
        assert np.allclose(read_file(str(path)).pixels, stored), number


@pytest.mark.parametrize(("text", "error", "message"), [
    (b"1 2 3", OSError, "the MetaImage is cut, it must have 15 bytes of values, got 3"),
    (bytes(range(100, 115)), ValueError, "MetaImage of text must hold uint8 numbers, got others"),
])  # fmt: skip
def test_a_metaimage_of_no_text_or_too_little_is_refused(
    tmp_path: Path, text: bytes, error: type[Exception], message: str
) -> None:
    path = metaimage(tmp_path / "a.mhd", GREY, data="a.txt", BinaryData="False")
    (tmp_path / "a.txt").write_bytes(text)
    with pytest.raises(error, match=rf"a\.mhd: .*{message}"):
        read_file(str(path))


def test_metaimage_says_where_it_lies(tmp_path: Path) -> None:
    entries = {"ElementSpacing": "0.2 0.1 1", "Offset": "7 8 9", "TransformMatrix": "0 1 0 1 0 0 0 0 1"}
    raw = read_file(str(metaimage(tmp_path / "a.mha", GREY[None], **entries)))
    assert raw.spacing == (0.1, 0.2)
    assert np.allclose(raw.affine, [[0, -0.1, 0, -7], [-0.2, 0, 0, -8], [0, 0, 1, 9], [0, 0, 0, 1]])
    plain = read_file(str(metaimage(tmp_path / "b.mha", GREY, ElementSpacing="1 1")))
    assert np.isnan(plain.spacing).all()
    assert np.array_equal(plain.affine, np.diag([-1, -1, 1, 1]))


BAD: dict[str, tuple[dict[str, str], type[Exception], str]] = {
    "volume": ({"DimSize": "5 3 2", "NDims": "3"}, ValueError, r"must be two-dimensional, got shape \(5, 3, 2\)"),
    "cut": ({"DimSize": "5 30"}, OSError, "the MetaImage is cut, it must have 150 bytes of values, got 15"),
    "text": ({"DimSize": "five 3"}, ValueError, "entry DimSize must hold numbers, got 'five 3'"),
    "type": ({"ElementType": "MET_STRING"}, ValueError, "entry ElementType must be one of .*, got 'MET_STRING'"),
    "elsewhere": ({"data": "/etc/passwd"}, ValueError, "name one file beside it, got '/etc/passwd'"),
    "above": ({"data": "../x.raw"}, ValueError, r"name one file beside it, got '\.\./x\.raw'"),
    "list": ({"data": "LIST"}, ValueError, "name one file beside it, got 'LIST'"),
    "huge": ({"DimSize": "60000 60000"}, ValueError, r"must have 1 to \d+ pixels, got 60000x60000"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_metaimages_are_named(tmp_path: Path, kind: str) -> None:
    entries, error, message = BAD[kind]
    with pytest.raises(error, match=rf"a\.mha: .*{message}"):
        read_file(str(metaimage(tmp_path / "a.mha", GREY, **entries)))


def test_a_metaimage_without_its_values_is_named(tmp_path: Path) -> None:
    path = metaimage(tmp_path / "a.mhd", GREY, data="a.raw")
    (tmp_path / "a.raw").unlink()
    with pytest.raises(OSError, match=r"a\.mhd: cannot be decoded: .*a\.raw"):
        read_file(str(path))
    path.write_text("no header")
    with pytest.raises(ValueError, match=r"a\.mhd: MetaImage header must have lines of name = value"):
        read_file(str(path))


@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_compressed_values_are_not_unpacked_beyond_their_size(tmp_path: Path, suffix: str) -> None:
    path = metaimage(tmp_path / f"a{suffix}", GREY, data="LOCAL" if suffix == ".mha" else "a.zraw")
    header = path.read_bytes().split(b"ElementDataFile")[0] + b"CompressedData = True\nElementDataFile = "
    bomb = zlib.compress(bytes(1 << 26))
    (tmp_path / "a.zraw").write_bytes(bomb)
    path.write_bytes(header + (b"LOCAL\n" + bomb if suffix == ".mha" else b"a.zraw\n"))
    with pytest.raises(ValueError, match=rf"a\{suffix}: MetaImage must unpack to 15 bytes of values, got more"):
        read_file(str(path))


def test_compressed_values_without_their_end_are_refused(tmp_path: Path) -> None:
    path = metaimage(tmp_path / "a.mha", GREY, CompressedData="True")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OSError, match=r"a\.mha: .* cut: its compressed values end after 15 of 15 bytes"):
        read_file(str(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_metaimage_that_names_a_pipe_is_refused(tmp_path: Path) -> None:
    path = metaimage(tmp_path / "a.mhd", GREY, data="a.raw")
    (tmp_path / "a.raw").unlink()
    os.mkfifo(tmp_path / "a.raw")
    with pytest.raises(ValueError, match=r"a\.mhd: MetaImage must name a plain file, got 'a\.raw', which is none"):
        read_file(str(path))


@pytest.mark.parametrize("kind", ["complex64", "complex128"])
def test_complex_numbers_are_refused(tmp_path: Path, kind: str) -> None:
    nibabel.save(nibabel.Nifti1Image(ACROSS.astype(kind) * 1j, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ValueError, match=rf"a\.nii: NIfTI must hold real numbers, got {kind}; save their magnitude"):
        read_file(str(tmp_path / "a.nii"))


def gzipped_nifti(path: Path) -> bytes:
    rng = np.random.default_rng(0)
    nibabel.save(nibabel.Nifti1Image(rng.integers(0, 256, (50, 30), np.uint8), np.eye(4)), path)
    return path.read_bytes()


@pytest.mark.parametrize("as_mask", [False, True])
@pytest.mark.parametrize("place", ["values", "checksum", "length"])
def test_a_flipped_bit_of_a_gzipped_nifti_is_noticed(tmp_path: Path, place: str, as_mask: bool) -> None:
    content = bytearray(gzipped_nifti(tmp_path / "a.nii.gz"))
    content[{"values": len(content) // 2, "checksum": -8, "length": -4}[place]] ^= 4
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(OSError, match=r"a\.nii\.gz: cannot be decoded: the NIfTI's gzip data are damaged or cut \("):
        read_file(str(tmp_path / "a.nii.gz"), as_mask=as_mask)


@pytest.mark.parametrize("left", [1, 4, 8, 9, 500])
def test_a_gzipped_nifti_that_is_cut_behind_its_values_is_refused(tmp_path: Path, left: int) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzipped_nifti(tmp_path / "a.nii.gz")[:-left])
    with pytest.raises(OSError, match=r"a\.nii\.gz: cannot be decoded: .*ended before the end-of-stream marker"):
        read_file(str(tmp_path / "a.nii.gz"))


def test_a_gzipped_nifti_is_not_unpacked_far_beyond_its_size(tmp_path: Path) -> None:
    content = gzip.decompress(gzipped_nifti(tmp_path / "a.nii.gz"))
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content) + gzip.compress(b"more"))  # in several parts
    assert read_file(str(tmp_path / "a.nii.gz")).pixels.shape == (30, 50)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content + bytes(1 << 26)))
    with pytest.raises(ValueError, match=r"a\.nii\.gz: NIfTI must unpack to 1852 bytes, got 1 MiB more or above"):
        read_file(str(tmp_path / "a.nii.gz"))


def test_a_spacing_that_cannot_be_right_is_left_out(tmp_path: Path) -> None:
    for zooms in ((1e-20, 1e-20), (0.1, 300.0)):
        image = nibabel.Nifti1Image(ACROSS, np.diag([*zooms, 1, 1]))
        nibabel.save(image, tmp_path / "a.nii")
        raws = [read_file(str(tmp_path / "a.nii"))]
        raws += [read_file(str(metaimage(tmp_path / "a.mha", GREY, ElementSpacing=f"{zooms[0]} {zooms[1]}")))]
        for raw in raws:
            assert np.isnan(raw.spacing).all(), zooms
            assert "mm cannot be right and is left out" in "; ".join(raw.notes)
