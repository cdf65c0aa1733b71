"""What happens, in which order: stages, callbacks, the graph they form, and what runs it."""

from stages.assembly import Assembly, assemble
from stages.batch import batch_size
from stages.callbacks import Callback, after, around, before
from stages.cancel import Cancel, Exhausted, Outcome, Skip
from stages.check import Finding
from stages.control import Chain, Every, Microbatches, Repeat, When, Window
from stages.errors import (
    AmbiguousSlot,
    BatchError,
    ContractBroken,
    DeclarationError,
    GraphError,
    LimitError,
    Misuse,
    StageError,
    UnknownSlot,
)
from stages.frame import Frame
from stages.phases import EvaluationPhase, Fit, Phase, Predict, TrainingPhase, Validate, evaluating, training
from stages.runner import Runner
from stages.stage import Composite, Stage, stage
from stages.supervised import (
    AverageGradients,
    Backward,
    ClearGradients,
    Collect,
    Epoch,
    Fetch,
    FitBatch,
    Forward,
    Gradient,
    Loss,
    Train,
    Unpack,
    Update,
    ValidateBatch,
    ValidateLoss,
)

__all__ = [
    "AmbiguousSlot",
    "Assembly",
    "AverageGradients",
    "Backward",
    "BatchError",
    "Callback",
    "Cancel",
    "Chain",
    "ClearGradients",
    "Collect",
    "Composite",
    "ContractBroken",
    "DeclarationError",
    "Epoch",
    "EvaluationPhase",
    "Every",
    "Exhausted",
    "Fetch",
    "Finding",
    "Fit",
    "FitBatch",
    "Forward",
    "Frame",
    "Gradient",
    "GraphError",
    "LimitError",
    "Loss",
    "Microbatches",
    "Misuse",
    "Outcome",
    "Phase",
    "Predict",
    "Repeat",
    "Runner",
    "Skip",
    "Stage",
    "StageError",
    "Train",
    "TrainingPhase",
    "UnknownSlot",
    "Unpack",
    "Update",
    "Validate",
    "ValidateBatch",
    "ValidateLoss",
    "When",
    "Window",
    "after",
    "around",
    "assemble",
    "batch_size",
    "before",
    "evaluating",
    "stage",
    "training",
]
