"""TrainState: the fields of supervised training."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from state.fields import field
from state.state import State


class Scratch(dict[str, Any]):
    """A mapping for whatever has no field of its own; it lives for one batch and is never saved."""


class TrainState(State):
    """What one model, one optimizer and a loss on batches of inputs and targets need."""

    model: nn.Module = field(description="the model that is trained")
    optimizer: Optimizer = field(description="its optimizer")
    loss_fn: Callable[..., Any] = field(
        description="loss_fn(outputs, targets) gives a scalar, mean over the batch",
        saved="volatile",
        because="given by the program; a loss module that is trained has a field of its own",
    )
    train_loader: Any = field(description="iterable of batches to train on", saved="volatile", because="made anew")
    valid_loader: Any = field(description="iterable of batches to validate on", saved="volatile", because="made anew")
    device: torch.device = field(description="where batches are moved to", saved="volatile", because="of this machine")

    updates: int = field(default=0, ge=0, description="optimizer updates so far")
    epochs_done: int = field(default=0, ge=0, description="epochs so far")
    batches_seen: int = field(default=0, ge=0, description="training batches so far")
    samples_seen: int = field(default=0, ge=0, description="training samples so far")

    epoch: int = field(scope="epoch", description="the epoch we are in, from 0")
    train_loss: float | Tensor = field(scope="epoch", description="mean of the training loss over the samples")
    valid_loss: float | Tensor = field(scope="epoch", description="mean of the validation loss over the samples")

    batches: Iterator[Any] = field(
        scope="phase", description="the loader's iterator", saved="volatile", because="the loader's position is saved"
    )
    batch_index: int = field(scope="phase", description="the batch of the phase we are in, from 0")

    batch: Any = field(scope="batch", description="what the loader gave, on the device")
    inputs: Any = field(scope="batch", description="the model's input; the first dimension is the batch")
    targets: Any = field(scope="batch", description="what the outputs are compared with, one per input")
    outputs: Any = field(scope="batch", description="what the model made of the inputs")
    loss: Tensor = field(scope="batch", description="scalar, mean over the batch")
    loss_weight: float = field(scope="batch", description="what the loss is multiplied by to be differentiated, if set")
    scratch: Scratch = field(
        scope="batch", factory=lambda state: Scratch(), description="whatever has no field, for this batch"
    )
