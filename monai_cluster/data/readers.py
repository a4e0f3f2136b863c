# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Read one file or DICOM folder as a channel-first ``MetaTensor`` with an affine in RAS millimetres.

NIfTI is read by nibabel, NRRD, MHA and MHD by SimpleITK (MONAI's own reader needs the 1.6 GB
``itk``), DICOM by :mod:`monai_cluster.data.dicom`, PNG, JPEG, TIFF and BMP by Pillow.

A 2D image is ``C H W`` with its top row first, as it is looked at. Files that know their anatomy are turned that way:
an axial image has the front on top and the patient's right on the left, a coronal or sagittal one the head on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from monai.data import ImageReader, MetaTensor
from PIL import Image, ImageOps

from .dicom import LUMINANCE, DicomSeriesReader, is_dicom, read_dicom_image

__all__ = [
    "PICTURE_SUFFIXES",
    "READABLE_SUFFIXES",
    "UPRIGHT_CODES",
    "PictureReader",
    "SimpleITKReader",
    "file_suffix",
    "other_meta",
    "read_image",
    "read_volume",
    "spatial_shape",
]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
READABLE_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES + PICTURE_SUFFIXES + (".dcm", ".ima")
# axis codes (row, column, slice) in which slices of a plane look upright on a screen
UPRIGHT_CODES = {"axial": "PLS", "coronal": "ILA", "sagittal": "IPR"}


def file_suffix(path: str | Path) -> str:
    """Lower-case suffix, with ``.nii.gz`` as one."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


class PictureReader(ImageReader):
    """MONAI reader of PNG, JPEG, TIFF and BMP as grey values ``H W``, top row first.

    8 and 16 bits and floats keep their values. Colour becomes luminance, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), in
    floating point; an alpha channel is ignored; palettes are resolved; the EXIF orientation is applied. The affine
    says row = towards the feet or back (-A), column = towards the patient's left (-R), 1 mm.

    Raises:
        ValueError: for files with several pages.
    """

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        """Whether all files have a picture's suffix."""
        names = [filename] if isinstance(filename, (str, Path)) else filename
        return all(file_suffix(name) in PICTURE_SUFFIXES for name in names)

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Open one picture or a list of pictures."""
        names = [data] if isinstance(data, (str, Path)) else list(data)
        pictures = [_open_picture(Path(name)) for name in names]
        return pictures[0] if len(pictures) == 1 else pictures

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Grey values ``H W`` (``C H W`` for a list) and affine."""
        stack = [img] if isinstance(img, np.ndarray) else list(img)
        _need_equal_shapes([picture.shape for picture in stack])
        affine = np.array([[0.0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        channel = float("nan") if len(stack) == 1 else 0
        array = stack[0] if len(stack) == 1 else np.stack(stack)
        meta = {"affine": affine, "spatial_shape": np.array(stack[0].shape), "original_channel_dim": channel}
        return array, meta


def _open_picture(path: Path) -> np.ndarray:
    # by a handle: from a path, Pillow 13 maps uncompressed TIFFs that are to be turned with swapped sides
    with path.open("rb") as file, Image.open(file) as picture:
        pages = getattr(picture, "n_frames", 1)
        if pages > 1:
            rule = f"a picture must have one page, got {pages} in {path.name}"
            raise ValueError(f"{rule}; save the pages as files, or as one NIfTI volume")
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("P", "PA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"):
            picture = picture.convert("RGB")
        array = np.asarray(picture)
    if array.dtype == bool:
        return array.astype(np.float32)
    if array.ndim == 3:
        colour = array.astype(np.float32)
        if array.shape[2] >= 3:
            return (colour[..., :3] @ LUMINANCE).astype(np.float32)
        return np.ascontiguousarray(colour[..., 0])
    return array.astype(np.float32)


class SimpleITKReader(ImageReader):
    """MONAI reader of NRRD, NHDR, MHA and MHD through SimpleITK: array in x, y, z order, affine in RAS millimetres."""

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        """Whether all files have one of the four suffixes."""
        names = [filename] if isinstance(filename, (str, Path)) else filename
        return all(file_suffix(name) in ITK_SUFFIXES for name in names)

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Read one file or a list of files."""
        names = [data] if isinstance(data, (str, Path)) else list(data)
        images = [sitk.ReadImage(str(name)) for name in names]
        return images[0] if len(images) == 1 else images

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Array ``X Y Z`` (``C X Y Z`` where there are channels) and affine."""
        images = list(img) if isinstance(img, (list, tuple)) else [img]
        arrays = [_itk_array(image) for image in images]
        _need_equal_shapes([array.shape for array in arrays])
        array = np.concatenate(arrays)
        affine, many = itk_affine(images[0]), array.shape[0] > 1
        meta = {
            "affine": affine,
            "spatial_shape": np.array(array.shape[1:]),
            "original_channel_dim": 0 if many else float("nan"),
        }
        return (array if many else array[0]), meta


def _itk_array(image: Any) -> np.ndarray:
    """``C X Y Z``."""
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., None]
    return np.ascontiguousarray(array.T).astype(np.float32)


def itk_affine(image: Any) -> np.ndarray:
    """Affine ``4 4`` in RAS of a SimpleITK image, which speaks LPS; time is left out."""
    dim, space = image.GetDimension(), min(image.GetDimension(), 3)
    direction = np.array(image.GetDirection()).reshape(dim, dim)[:space, :space]
    affine = np.eye(4)
    affine[:space, :space] = direction * np.array(image.GetSpacing())[:space]
    affine[:space, 3] = np.array(image.GetOrigin())[:space]
    affine[:2] *= -1
    return affine


def _need_equal_shapes(shapes: Sequence[tuple[int, ...]]) -> None:
    if len(set(shapes)) > 1:
        raise ValueError(
            f"files read as channels of one sample must have one shape, got {sorted(set(shapes))}; resample them"
        )


def spatial_shape(path: str | Path) -> tuple[int, ...]:
    """Shape of the spatial (and time) axes from the header alone; axes of length one at the end are dropped.

    Raises:
        ValueError: for a suffix that is not read.
    """
    suffix = file_suffix(path)
    if suffix in PICTURE_SUFFIXES:
        shape: tuple[int, ...] = (1, 1)
    elif suffix in NIFTI_SUFFIXES:
        shape = tuple(nib.load(path).shape)
    elif suffix in ITK_SUFFIXES:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        shape = tuple(reader.GetSize())
    else:
        raise ValueError(f"files must end in one of {', '.join(READABLE_SUFFIXES)}, got {Path(path).name}; convert it")
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _load(path: Path, frame: int | None) -> tuple[np.ndarray, dict[str, Any]]:
    """``C`` and the spatial axes X Y (Z), and the meta data, from NIfTI or SimpleITK's formats."""
    if file_suffix(path) in NIFTI_SUFFIXES:
        nifti: Any = nib.load(path)
        # MONAI's reader takes the qform where the spacing of the sform is not pixdim's, even one that nobody set
        array, meta = np.asarray(nifti.dataobj)[None], {"affine": nifti.affine}
    else:
        reader = SimpleITKReader()
        array, meta = reader.get_data(reader.read(str(path)))
        array = array[None] if np.isnan(meta["original_channel_dim"]) else array
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim > 4:
        frames = array.shape[4:]
        if frame is None:
            rule = f"a volume has three axes, but {path.name} has {frames} frames or channels after them"
            raise ValueError(f"{rule}; choose one with frame=0 (argument or column of the datalist), or split the file")
        array = array.reshape(*array.shape[:4], -1)
        if not 0 <= frame < array.shape[4]:
            raise ValueError(f"frame must lie in 0..{array.shape[4] - 1} for {path.name}, got {frame}")
        array = array[..., frame]
    return array, meta


def read_volume(path: str | Path | Sequence[str | Path], frame: int | None = None) -> MetaTensor:
    """Read a volume.

    Args:
        path: a file, a folder with one DICOM series, or a list of files that become channels.
        frame: which frame of a 4D file; None refuses 4D files.

    Returns:
        float32 ``C X Y Z`` in the order of the file, with affine.

    Raises:
        ValueError: for 2D files, 4D files without ``frame``, channels of different shape, unknown suffixes.
    """
    if isinstance(path, (list, tuple)):
        channels = [read_volume(one, frame) for one in path]
        _need_equal_shapes([tuple(channel.shape) for channel in channels])
        return MetaTensor(torch.cat([channel.as_tensor() for channel in channels]), meta=channels[0].meta)
    path = Path(str(path))
    if path.is_dir():
        reader = DicomSeriesReader()
        array, meta = reader.get_data(reader.read(path))
        array = array[None]
    else:
        if file_suffix(path) in PICTURE_SUFFIXES or is_dicom(path) or len(spatial_shape(path)) < 3:
            raise ValueError(
                f"{path.name} is a 2D file, listed as a volume; list it under images, or set its kind to 'image'"
            )
        array, meta = _load(path, frame)
    return _tensor(array, meta)


def read_image(path: str | Path | Sequence[str | Path], frame: int | None = None) -> MetaTensor:
    """Read a 2D image.

    Args:
        path: a file, or a list of files that become channels.
        frame: unused for pictures; which frame of a file with time.

    Returns:
        float32 ``C H W``, top row first, with affine.

    Raises:
        ValueError: for volumes and DICOM folders, and as for :func:`read_volume`.
    """
    if isinstance(path, (list, tuple)):
        channels = [read_image(one, frame) for one in path]
        _need_equal_shapes([tuple(channel.shape) for channel in channels])
        return MetaTensor(torch.cat([channel.as_tensor() for channel in channels]), meta=channels[0].meta)
    path = Path(str(path))
    if path.is_dir():
        raise ValueError(f"{path.name} is a folder (a DICOM series), listed as an image; list it under volumes")
    if file_suffix(path) in PICTURE_SUFFIXES:
        reader = PictureReader()
        array, meta = reader.get_data(reader.read(path))
        return _tensor(array[None], meta)
    if is_dicom(path):
        array, meta = read_dicom_image(path)
        return _tensor(array[None], meta)
    shape = spatial_shape(path)
    if len(shape) > 2:
        raise ValueError(
            f"{path.name} is a volume of shape {shape}, listed as an image; list it under volumes, or "
            "set its kind to 'volume'"
        )
    array, meta = _load(path, frame)
    return _upright(_tensor(array.reshape(*array.shape[:3], 1), meta))


def _upright(image: MetaTensor) -> MetaTensor:
    """Turn ``C X Y 1`` to ``C H W`` with the head or the front on top, from the affine."""
    affine = np.asarray(image.affine, dtype=np.float64)
    now = nib.orientations.io_orientation(affine)
    codes = UPRIGHT_CODES[("sagittal", "coronal", "axial")[int(now[2, 0])]]
    turn = nib.orientations.ornt_transform(now, nib.orientations.axcodes2ornt(tuple(codes)))
    data = image.as_tensor().numpy()
    turned = np.stack([nib.orientations.apply_orientation(channel, turn) for channel in data])[..., 0]
    new_affine = affine @ nib.orientations.inv_ornt_aff(turn, data.shape[1:])
    return MetaTensor(
        torch.from_numpy(np.ascontiguousarray(turned)), affine=torch.from_numpy(new_affine), meta=other_meta(image)
    )


def other_meta(image: MetaTensor) -> dict[str, Any]:
    """Meta data of an image without its affine, for a result with an affine of its own."""
    return {key: value for key, value in image.meta.items() if key != "affine"}


def _tensor(array: np.ndarray, meta: dict[str, Any]) -> MetaTensor:
    """Keep of the meta data what the package uses: affine and modality; no names, no identifiers."""
    data = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    kept = {"modality": str(meta["modality"])} if "modality" in meta else {}
    return MetaTensor(data, affine=torch.as_tensor(np.asarray(meta["affine"], dtype=np.float64)), meta=kept)
