# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The package's jobs, one public function each; ``monai-cluster VERB`` calls the same functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_cluster._lazy import attach

if TYPE_CHECKING:
    from .check_overrides import refuse_unknown_overrides as refuse_unknown_overrides
    from .check_settings import CheckResult as CheckResult
    from .checking import check as check
    from .demonstration import demo as demo
    from .embedding import embed as embed
    from .embeddings import Embeddings as Embeddings
    from .embeddings import load_embeddings as load_embeddings
    from .evaluation import evaluate as evaluate
    from .exporting import export as export
    from .few_labels import fewlabel as fewlabel
    from .finetune_finishing import finish_finetuning as finish_finetuning
    from .finetuned import FinetunedModel as FinetunedModel
    from .finetuned import load_finetuned as load_finetuned
    from .finetuned_evaluation import evaluate_model as evaluate_model
    from .finetuning import finetune as finetune
    from .finishing import finish_pretraining as finish_pretraining
    from .output_folder import OutputFolder as OutputFolder
    from .output_folder import find_checkpoint as find_checkpoint
    from .output_folder import prepare_output as prepare_output
    from .prediction import predict as predict
    from .prediction_steps import PredictionToSourced as PredictionToSourced
    from .prediction_steps import PredictionWriter as PredictionWriter
    from .prediction_steps import model_description as model_description
    from .pretraining import pretrain as pretrain

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "check_overrides": ["refuse_unknown_overrides"],
        "check_settings": ["CheckResult"],
        "checking": ["check"],
        "demonstration": ["demo"],
        "embedding": ["embed"],
        "embeddings": ["Embeddings", "load_embeddings"],
        "evaluation": ["evaluate"],
        "exporting": ["export"],
        "few_labels": ["fewlabel"],
        "finetune_finishing": ["finish_finetuning"],
        "finetuned": ["FinetunedModel", "load_finetuned"],
        "finetuned_evaluation": ["evaluate_model"],
        "finetuning": ["finetune"],
        "finishing": ["finish_pretraining"],
        "output_folder": ["OutputFolder", "find_checkpoint", "prepare_output"],
        "prediction": ["predict"],
        "prediction_steps": ["PredictionToSourced", "PredictionWriter", "model_description"],
        "pretraining": ["pretrain"],
    },
)
