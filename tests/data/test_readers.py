# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Pictures, NIfTI, NRRD and MetaImage."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.transforms import LoadImage
from PIL import Image

from monai_cluster.data import PictureReader, SimpleITKReader, read_image, read_volume
from monai_cluster.data.readers import spatial_shape

RANDOM = np.random.default_rng(0)


def itk_image(shape: tuple[int, ...] = (6, 5, 4)) -> sitk.Image:
    """An oblique image of x, y, z = shape."""
    image = sitk.GetImageFromArray(RANDOM.integers(-500, 500, shape[::-1]).astype(np.int16))
    image.SetSpacing((0.5, 0.7, 2.0)[: len(shape)])
    if len(shape) == 3:
        image.SetOrigin((10.0, -20.0, 30.0))
        c, s = np.cos(0.3), np.sin(0.3)
        image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    return image


@pytest.mark.parametrize(("dtype", "high"), [(np.uint8, 256), (np.uint16, 65536)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_pictures_keep_all_their_bits_with_the_top_row_first(
    tmp_path: Path, dtype: type, high: int, suffix: str
) -> None:
    array = RANDOM.integers(0, high, (7, 11)).astype(dtype)
    Image.fromarray(array).save(tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}")
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image.numpy(), array[None].astype(np.float32))


def test_float_tiff_one_bit_and_palette_pictures_keep_their_values(tmp_path: Path) -> None:
    real = RANDOM.normal(size=(4, 5)).astype(np.float32)
    Image.fromarray(real).save(tmp_path / "f.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "f.tif")[0].numpy(), real)
    bits = RANDOM.integers(0, 2, (4, 5)).astype(bool)
    Image.fromarray(bits).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png")[0].numpy() > 0, bits)
    grey = RANDOM.integers(0, 256, (4, 5), dtype=np.uint8)
    Image.merge("RGB", [Image.fromarray(grey)] * 3).quantize(256).save(tmp_path / "p.png")
    np.testing.assert_allclose(read_image(tmp_path / "p.png")[0].numpy(), grey, atol=1e-3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_becomes_luminance_and_alpha_is_ignored(tmp_path: Path, mode: str) -> None:
    array = RANDOM.integers(0, 256, (4, 5, len(mode)), dtype=np.uint8)
    Image.fromarray(array, mode).save(tmp_path / "c.png")
    expected = 0.299 * array[..., 0] + 0.587 * array[..., 1] + 0.114 * array[..., 2]
    np.testing.assert_allclose(read_image(tmp_path / "c.png")[0].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_camera_orientation_of_exif_is_applied(suffix: str, tmp_path: Path) -> None:
    array = np.zeros((8, 16), dtype=np.uint8)
    array[:, 8:] = 200
    array[0] = 90
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned 90 degrees clockwise
    Image.fromarray(array).save(tmp_path / f"e{suffix}", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / f"e{suffix}")[0].numpy(), np.rot90(array, -1))


def test_a_file_of_several_pages_is_refused(tmp_path: Path) -> None:
    page = Image.fromarray(np.zeros((4, 4), dtype=np.uint8))
    page.save(tmp_path / "m.tif", save_all=True, append_images=[page])
    with pytest.raises(ValueError, match=r"one page, got 2 in m\.tif; save the pages"):
        read_image(tmp_path / "m.tif")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd", ".nii.gz"])
def test_voxels_and_their_millimetres_are_simpleitks_in_ras(tmp_path: Path, suffix: str) -> None:
    image = itk_image()
    sitk.WriteImage(image, str(tmp_path / f"v{suffix}"))
    volume = read_volume(tmp_path / f"v{suffix}")
    for index in ((0, 0, 0), (5, 0, 1), (2, 4, 3)):
        assert float(volume.as_tensor()[(0, *index)]) == image[index]
        point = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)  # LPS to RAS
        np.testing.assert_allclose((volume.affine @ torch.tensor([*index, 1.0]).double())[:3], point, atol=1e-4)


def test_the_readers_work_inside_monais_loader(tmp_path: Path) -> None:
    sitk.WriteImage(itk_image(), str(tmp_path / "v.nrrd"))
    loaded = LoadImage(reader=SimpleITKReader(), ensure_channel_first=True)(tmp_path / "v.nrrd")
    direct = read_volume(tmp_path / "v.nrrd")
    assert torch.equal(torch.as_tensor(loaded).float(), direct.as_tensor())
    torch.testing.assert_close(loaded.affine, direct.affine)
    Image.fromarray(RANDOM.integers(0, 256, (4, 5), dtype=np.uint8)).save(tmp_path / "a.png")
    loaded = LoadImage(reader=PictureReader(), ensure_channel_first=True)(tmp_path / "a.png")
    assert torch.equal(torch.as_tensor(loaded), read_image(tmp_path / "a.png").as_tensor())


def test_files_of_a_list_become_channels(tmp_path: Path) -> None:
    images = [itk_image(), itk_image()]
    for name, image in zip("ab", images, strict=True):
        sitk.WriteImage(image, str(tmp_path / f"{name}.mha"))
    both = read_volume([tmp_path / "a.mha", tmp_path / "b.mha"])
    np.testing.assert_array_equal(both[1].numpy(), sitk.GetArrayFromImage(images[1]).T)
    sitk.WriteImage(itk_image((3, 3, 3)), str(tmp_path / "c.mha"))
    with pytest.raises(ValueError, match="must have one shape"):
        read_volume([tmp_path / "a.mha", tmp_path / "c.mha"])


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_frame_of_a_4d_file_must_be_chosen(tmp_path: Path, suffix: str) -> None:
    array = RANDOM.normal(size=(4, 5, 6, 3)).astype(np.float32)
    path = tmp_path / f"t{suffix}"
    if suffix == ".nrrd":
        sitk.WriteImage(sitk.GetImageFromArray(array.T.copy(), isVector=False), str(path))
    else:
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    with pytest.raises(ValueError, match=r"frames or channels.*choose one with frame=0"):
        read_volume(path)
    np.testing.assert_allclose(read_volume(path, frame=2)[0].numpy(), array[..., 2])
    with pytest.raises(ValueError, match=r"frame must lie in 0\.\.2"):
        read_volume(path, frame=3)


def test_axes_of_length_one_at_the_end_do_not_make_a_volume_4d(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6, 1), np.float32), np.eye(4)), tmp_path / "v.nii")
    assert tuple(read_volume(tmp_path / "v.nii").shape) == (1, 4, 5, 6)
    assert spatial_shape(tmp_path / "v.nii") == (4, 5, 6)


def test_a_2d_file_as_volume_and_a_volume_as_image_are_refused_with_the_fix(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    nib.save(nib.Nifti1Image(np.ones((4, 5, 1), np.float32), np.eye(4)), tmp_path / "flat.nii")
    sitk.WriteImage(itk_image(), str(tmp_path / "v.mha"))
    for name in ("a.png", "flat.nii"):
        with pytest.raises(ValueError, match="is a 2D file, listed as a volume; list it under images"):
            read_volume(tmp_path / name)
    with pytest.raises(ValueError, match=r"shape \(6, 5, 4\), listed as an image; list it under volumes"):
        read_image(tmp_path / "v.mha")
    with pytest.raises(ValueError, match="listed as an image; list it under volumes"):
        read_image(tmp_path)
    with pytest.raises(ValueError, match="files must end in one of"):
        spatial_shape(tmp_path / "a.npy")


@pytest.mark.parametrize("flips", [(1, 1), (-1, 1), (1, -1)])
@pytest.mark.parametrize(("first", "second", "top", "left"), [(0, 1, 1, 0), (0, 2, 2, 0), (1, 2, 2, 1)])
def test_a_2d_nifti_stands_upright_whatever_its_axes(
    tmp_path: Path, flips: tuple[int, int], first: int, second: int, top: int, left: int
) -> None:
    """Front or head in the top row; the patient's right, or in sagittal images the front, in the left column."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    affine[first, 0], affine[second, 1], affine[3 - first - second, 2] = flips[0], flips[1], 1
    x, y = np.meshgrid(np.arange(4), np.arange(5), indexing="ij")
    world = {first: flips[0] * x, second: flips[1] * y}
    for axis, expected_top in ((top, True), (left, False)):
        nib.save(nib.Nifti1Image(world[axis][..., None].astype(np.float32), affine), tmp_path / "f.nii")
        image = read_image(tmp_path / "f.nii")[0].numpy()
        start, end = (image[0], image[-1]) if expected_top else (image[:, 0], image[:, -1])
        assert (start > end).all()  # R, A and S are the large values
        h, w = 2, 1
        point = read_image(tmp_path / "f.nii").affine.numpy() @ [h, w, 0, 1]
        assert point[axis] == pytest.approx(image[h, w])


def test_the_sform_is_believed_whatever_pixdim_says(tmp_path: Path) -> None:
    affine = np.array([[0, 0, 2.0, 5], [-1.5, 0, 0, 6], [0, 1.0, 0, 7], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), affine)
    image.header["pixdim"][1:4] = (1, 1, 1)  # as after a conversion that lost the spacing
    image.header["qform_code"] = 0
    image.header["sform_code"] = 1
    content = bytearray(image.to_bytes())
    content[80:92] = np.array([1, 1, 1], "<f4").tobytes()  # nibabel repairs pixdim while it writes
    (tmp_path / "v.nii").write_bytes(content)
    assert nib.load(tmp_path / "v.nii").header["pixdim"][1:4].tolist() == [1, 1, 1]
    np.testing.assert_allclose(read_volume(tmp_path / "v.nii").affine.numpy(), affine)
