# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""From files to joint batches: datalists, readers, preprocessing, datasets, sampler and loader; and phantoms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_cluster._lazy import attach

if TYPE_CHECKING:
    from .anchor_shapes import anchor_coverage as anchor_coverage
    from .anchor_shapes import fit_anchor_shapes as fit_anchor_shapes
    from .batch_sampler import JointBatchSampler as JointBatchSampler
    from .batch_size import fit_batch_size as fit_batch_size
    from .box_augment import RandCropBoxd as RandCropBoxd
    from .box_augment import RandMirrorBoxd as RandMirrorBoxd
    from .boxes import BoxToArrayd as BoxToArrayd
    from .boxes import boxes_from_world as boxes_from_world
    from .boxes import boxes_to_world as boxes_to_world
    from .boxes import detections_to_json as detections_to_json
    from .cache_choice import choose_cache as choose_cache
    from .datalist import Datalist as Datalist
    from .datalist import load_datalist as load_datalist
    from .datasets import ClusterImageDataset as ClusterImageDataset
    from .datasets import SliceDataset as SliceDataset
    from .datasets import VolumeDataset as VolumeDataset
    from .dicom import DicomSeriesReader as DicomSeriesReader
    from .dicom_seg import DicomSeg as DicomSeg
    from .dicom_seg import read_dicom_seg as read_dicom_seg
    from .dicom_seg import write_dicom_seg as write_dicom_seg
    from .joint_dataset import JointDataset as JointDataset
    from .joint_loader import JointLoader as JointLoader
    from .joint_loader import collate_joint as collate_joint
    from .label_classes import class_names as class_names
    from .label_classes import class_weights as class_weights
    from .label_classes import number_classes as number_classes
    from .labelled_dataset import AugmentedDataset as AugmentedDataset
    from .labelled_dataset import DrawSampler as DrawSampler
    from .labelled_dataset import FinetuneLoader as FinetuneLoader
    from .labelled_dataset import LabelledDataset as LabelledDataset
    from .labelled_dataset import SampleLoader as SampleLoader
    from .labelled_dataset import collate_labelled as collate_labelled
    from .labelled_samples import labelled_preprocessing as labelled_preprocessing
    from .phantoms import write_phantoms as write_phantoms
    from .preprocessing import FitInPlaned as FitInPlaned
    from .preprocessing import LoadSampled as LoadSampled
    from .preprocessing import SelectChanneld as SelectChanneld
    from .preprocessing import ThinSlicesd as ThinSlicesd
    from .preprocessing import image_preprocessing as image_preprocessing
    from .preprocessing import volume_preprocessing as volume_preprocessing
    from .readers import PictureReader as PictureReader
    from .readers import SimpleITKReader as SimpleITKReader
    from .readers import read_image as read_image
    from .readers import read_volume as read_volume
    from .slice_spacing import typical_slice_spacing as typical_slice_spacing
    from .slice_store import SliceStore as SliceStore
    from .slice_store import StoreFullError as StoreFullError
    from .source_grid import class_ids_on_source_grid as class_ids_on_source_grid
    from .source_grid import to_source_grid as to_source_grid
    from .task_phantoms import write_task_phantoms as write_task_phantoms

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "source_grid": ["class_ids_on_source_grid", "to_source_grid"],
        "label_classes": ["class_names", "class_weights", "number_classes"],
        "labelled_dataset": [
            "AugmentedDataset",
            "DrawSampler",
            "FinetuneLoader",
            "LabelledDataset",
            "SampleLoader",
            "collate_labelled",
        ],
        "labelled_samples": ["labelled_preprocessing"],
        "anchor_shapes": ["anchor_coverage", "fit_anchor_shapes"],
        "batch_sampler": ["JointBatchSampler"],
        "batch_size": ["fit_batch_size"],
        "box_augment": ["RandCropBoxd", "RandMirrorBoxd"],
        "boxes": ["BoxToArrayd", "boxes_from_world", "boxes_to_world", "detections_to_json"],
        "cache_choice": ["choose_cache"],
        "datalist": ["Datalist", "load_datalist"],
        "datasets": ["ClusterImageDataset", "SliceDataset", "VolumeDataset"],
        "dicom": ["DicomSeriesReader"],
        "dicom_seg": ["DicomSeg", "read_dicom_seg", "write_dicom_seg"],
        "joint_dataset": ["JointDataset"],
        "joint_loader": ["JointLoader", "collate_joint"],
        "phantoms": ["write_phantoms"],
        "preprocessing": [
            "FitInPlaned",
            "LoadSampled",
            "SelectChanneld",
            "ThinSlicesd",
            "image_preprocessing",
            "volume_preprocessing",
        ],
        "readers": ["PictureReader", "SimpleITKReader", "read_image", "read_volume"],
        "slice_store": ["SliceStore", "StoreFullError"],
        "slice_spacing": ["typical_slice_spacing"],
        "task_phantoms": ["write_task_phantoms"],
    },
)
