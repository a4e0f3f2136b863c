# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Where a NIfTI file says its voxels lie: qform, sform and pixdim, and which of them the package's reader believes.

As the standard and nibabel have it: the sform where it has a code, else the qform, else pixdim alone. MONAI's reader
exchanges a sform whose spacing is not that of pixdim for the qform, even one that nobody set, so such files are warned
about: they lie elsewhere in other programs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from nibabel.quaternions import quat2mat

from .byte_stream import refuse
from .findings import Inspection
from .geometry import check_affine, same_grid
from .limits import Limits
from .nifti_header import NiftiHeader

__all__ = ["NiftiForms", "check_nifti_geometry", "read_forms"]

EXPORT = "export the item again"
HALF_VOXEL = 0.5  # qform and sform of one file may lie so far apart at the corners
CODES = range(6)
UNITS = {1: ("metres", 1000.0), 3: ("microns", 0.001)}
QUATERNION_SLACK = {348: 3 * float(np.finfo(np.float32).eps), 540: 3 * float(np.finfo(np.float64).eps)}


@dataclass(frozen=True)
class NiftiForms:
    """The geometry fields of a header, as nibabel repairs them while it reads.

    Attributes:
        sform: ``4 4``.
        qform: ``4 4``, or None where the quaternion is none.
        sform_code, qform_code: 0 where unknown.
        pixdim: of all axes; zeros among the first three became 1, and negative ones positive.
        plain: the affine of a header without any form: pixdim around the centre, first axis towards the left.
        num_axes: dim[0].
    """

    sform: np.ndarray
    qform: np.ndarray | None
    sform_code: int
    qform_code: int
    pixdim: np.ndarray
    plain: np.ndarray
    num_axes: int

    @property
    def nominal(self) -> np.ndarray | None:
        """What the standard, and nibabel, take; None for a qform without a valid quaternion."""
        return self.sform if self.sform_code else self.qform if self.qform_code else self.plain

    @property
    def fits_pixdim(self) -> bool:
        """Whether the spacing of the sform is that of pixdim, to a thousandth."""
        spacing = np.linalg.norm(self.sform[:3, :3], axis=0)
        if (spacing == 0).any():  # no spacing at all, which is said elsewhere
            return True
        return bool(np.allclose(self.pixdim[:3], spacing[: len(self.pixdim[:3])], rtol=1e-3))


def read_forms(header: NiftiHeader) -> NiftiForms:
    """Read the geometry fields."""
    fields, axes = header.fields, len(header.dims)
    pixdim = np.array(fields["pixdim"], dtype=np.float64)
    qfac = -1.0 if pixdim[0] == -1 else 1.0
    first = np.abs(pixdim[1:4])
    first[first == 0] = 1.0
    pixdim[1:4] = first
    sform = np.eye(4)
    sform[:3] = [np.array(fields[row], dtype=np.float64) for row in ("srow_x", "srow_y", "srow_z")]
    codes = [int(fields[name]) for name in ("sform_code", "qform_code")]
    known = [code if code in CODES else 0 for code in codes]
    sides, zooms = np.ones(3), np.ones(3)
    spatial = min(3, axes)
    sides[:spatial], zooms[:spatial] = header.dims[:spatial], first[:spatial]
    plain = np.diag([-zooms[0], zooms[1], zooms[2], 1.0])
    plain[:3, 3] = -np.diag(plain)[:3] * (sides - 1) / 2
    qform = _qform(header, first * (1.0, 1.0, qfac))
    return NiftiForms(sform, qform, known[0], known[1], pixdim[1 : axes + 1], plain, axes)


def _qform(header: NiftiHeader, zooms: np.ndarray) -> np.ndarray | None:
    vector = np.array([header.number(f"quatern_{letter}") for letter in "bcd"])
    slack, square = QUATERNION_SLACK[header.size], 1.0 - float(vector @ vector)
    if not square > -slack:
        return None
    real = 0.0 if abs(square) < slack else square**0.5
    qform = np.eye(4)
    qform[:3, :3] = quat2mat(np.r_[real, vector]) * zooms
    qform[:3, 3] = [header.number(f"qoffset_{letter}") for letter in "xyz"]
    return qform


def check_nifti_geometry(
    header: NiftiHeader, shape: tuple[int, ...], inspection: Inspection, limits: Limits
) -> NiftiForms:
    """Judge the geometry of a volume or image of ``shape`` and write its facts.

    Raises:
        InputRefusedError: SPACING and AFFINE, where nothing more can be said.
    """
    forms = read_forms(header)
    _check_codes(header, inspection)
    _check_pixdim(header, len(shape), forms, inspection)
    if forms.sform_code and not np.isfinite(forms.sform).all():
        raise refuse("AFFINE", "an affine must be finite", "NaN or Inf in the sform", EXPORT)
    grid = (*shape, 1)[:3]
    affine = forms.nominal
    if affine is None:
        rule = "the orientation must come from a valid sform or qform"
        found = "a quaternion of the qform that is no rotation"
        raise refuse("AFFINE", rule, found, EXPORT)
    _check_agreement(forms, grid, inspection)
    if not forms.sform_code and not forms.qform_code:
        found = "neither (both codes are 0): the orientation is unknown, and left may be right"
        fix = "export it again with its orientation; it is read as if the first axis ran to the patient's left"
        inspection.warn("ORIENTATION", "a header should hold a qform or sform", found, fix)
    before = len(inspection.findings)
    check_affine(affine, grid, inspection, limits if len(shape) == 3 else replace(limits, max_anisotropy=np.inf))
    _check_unit(header, before, inspection)
    if inspection.facts.spacing is not None:
        inspection.facts.spacing = inspection.facts.spacing[: len(shape)]
    return forms


def _check_codes(header: NiftiHeader, inspection: Inspection) -> None:
    codes = [int(header.fields[name]) for name in ("sform_code", "qform_code")]
    if any(code not in CODES for code in codes):
        found = f"sform_code {codes[0]}, qform_code {codes[1]}"
        fix = "a form of unknown code is not used by some readers, and used by others; export the item again"
        inspection.warn("HEADER", "the codes of sform and qform must lie in 0..5", found, fix)
    qfac = float(header.fields["pixdim"][0])
    if qfac not in (-1.0, 0.0, 1.0) and codes[0] not in CODES[1:] and codes[1] in CODES[1:]:
        found = f"{qfac:.6g}, which is read as 1"
        inspection.warn("HEADER", "qfac (pixdim[0]), the handedness, must be 1 or -1", found, "check left and right")


def _check_pixdim(header: NiftiHeader, axes: int, forms: NiftiForms, inspection: Inspection) -> None:
    spacing = np.array(header.fields["pixdim"][1 : axes + 1], dtype=np.float64)
    if (spacing > 0).all() and np.isfinite(spacing).all():
        return
    kind = "NaN or Inf" if not np.isfinite(spacing).all() else "negative" if (spacing < 0).any() else "zero"
    rule = "every spacing (pixdim) must be a positive number of mm"
    found = f"{kind} ({' × '.join(f'{value:.4g}' for value in spacing)})"
    if not forms.sform_code:
        raise refuse("SPACING", rule, found, EXPORT)
    fix = "the sform is believed where readers agree on it; export the item again"
    inspection.warn("SPACING", rule, f"{found} beside a sform", fix)


def _check_agreement(forms: NiftiForms, grid: tuple[int, ...], inspection: Inspection) -> None:
    """Whether the forms lie on one grid, as far as they are set and one reader or other takes them."""
    if forms.sform_code and not forms.fits_pixdim:
        spacing = " × ".join(f"{value:.4g}" for value in np.linalg.norm(forms.sform[:3, :3], axis=0))
        listed = " × ".join(f"{value:.4g}" for value in forms.pixdim[:3])
        found = f"{spacing} mm in the sform (affine) beside {listed} in pixdim"
        fix = "the sform is read here, while other programs take pixdim or the qform; make them agree"
        inspection.warn("SPACING", "the spacing of the sform must be that of pixdim", found, fix)
    if not forms.sform_code or not forms.qform_code:
        return
    if forms.qform is None:
        found = "a quaternion of the qform that is no rotation"
        inspection.warn("AFFINE", "a qform with a code must be valid", found, "the sform is read; export it again")
    elif _handedness(forms.qform) != _handedness(forms.sform):
        found = "a qform and sform that mirror one another (left-right flip)"
        fix = "which side is left depends on the reader; find out and correct the header"
        inspection.reject("AFFINE", "qform and sform must agree on the orientation", found, fix)
    elif (distance := same_grid(forms.sform, forms.qform, grid, HALF_VOXEL)) > 1:
        found = f"a qform and sform that disagree by {distance * HALF_VOXEL:.3g} voxels"
        fix = "the sform is read here, the qform by other readers; make both agree"
        inspection.warn("AFFINE", "qform and sform should lie on one grid", found, fix)


def _handedness(form: np.ndarray) -> float:
    return float(np.sign(np.linalg.det(form[:3, :3])))


def _check_unit(header: NiftiHeader, before: int, inspection: Inspection) -> None:
    """Say it where the header's unit is not mm, which no reader looks at."""
    code = int(header.fields["xyzt_units"]) & 7
    if code in (0, 2):
        return
    if code not in UNITS:
        rule = "the unit of lengths (xyzt_units) must be known"
        inspection.warn("HEADER", rule, f"code {code}, which the standard does not name", "it is read as mm")
        return
    name, factor = UNITS[code]
    judged = inspection.findings[before:]
    for at, finding in enumerate(judged):
        if finding.code == "SPACING" and finding.severity == "reject":
            found = f"{finding.found}; the header's unit is {name}, of which one is {factor:g} mm"
            fix = f"multiply the affine and pixdim by {factor:g} and set the unit to mm"
            judged[at] = replace(finding, found=found, fix=fix)
            inspection.findings[before:] = judged
            return
    found = f"{name}, although the spacing is plausible in mm"
    inspection.warn("SPACING", "the unit of lengths (xyzt_units) should be mm", found, "it is read as mm; check it")
