"""What happens, in which order: stages, callbacks, the graph they form, and what runs it."""

from stages.assembly import Assembly, assemble
from stages.batch import batch_size
from stages.callbacks import Callback, after, before
from stages.cancel import Cancel, Exhausted, Outcome
from stages.check import Finding
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
    "Backward",
    "BatchError",
    "Callback",
    "Cancel",
    "ClearGradients",
    "Collect",
    "Composite",
    "ContractBroken",
    "DeclarationError",
    "Epoch",
    "EvaluationPhase",
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
    "Misuse",
    "Outcome",
    "Phase",
    "Predict",
    "Runner",
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
    "after",
    "assemble",
    "batch_size",
    "before",
    "evaluating",
    "stage",
    "training",
]
