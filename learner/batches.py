"""TensorBatches: batches of tensors in memory, in an order that follows from a seed and the number of the pass."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from learner.errors import ArgumentError
from learner.passes import CountedLoader
from state.errors import a_kind

_WHO = "TensorBatches"


class TensorBatches(CountedLoader):
    """Batches of tensors in memory: tuples of tensors, or dicts if it was given a mapping.

    The order of a pass follows from `seed` and the number of the pass. Iterating draws from no random number generator
    of the program, costs about as much as slicing, and can be resumed at any batch by `load_state_dict`.

    Args:
        inputs: tensor of shape `(samples, ...)`, or a mapping of names to such tensors.
        targets, more: further tensors of as many samples, on the same device. Batches stay on that device.
        batch_size: the samples in a batch; the last one of a pass may have fewer.
        shuffle: whether each pass has an order of its own.
        drop_last: whether to leave out a last batch that is not full.
        seed: what the orders follow from, any integer. None: the seed of the Learner that it is given to, else 0.

    Raises:
        ArgumentError: what it got are no tensors, or of different lengths; a setting cannot be used.

    Example:
        >>> import torch
        >>> batches = TensorBatches(torch.arange(5), torch.arange(5) ** 2, batch_size=2)
        >>> [targets.tolist() for inputs, targets in batches]
        [[0, 1], [4, 9], [16]]
    """

    def __init__(
        self,
        inputs: Tensor | Mapping[str, Tensor],
        targets: Tensor | None = None,
        *more: Tensor,
        batch_size: int = 64,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
    ) -> None:
        rest = more if targets is None and not more else (targets, *more)
        if isinstance(inputs, Mapping) and rest:
            told = "it got a mapping and further tensors. Put them all into the mapping, or pass none in one."
            raise ArgumentError(_WHO, "inputs", told)
        named: dict[Any, Any] = dict(inputs) if isinstance(inputs, Mapping) else dict(enumerate((inputs, *rest)))
        length = _samples(named)
        super().__init__(length=length, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed)
        self._names = tuple(named) if isinstance(inputs, Mapping) else None
        self._tensors: tuple[Tensor, ...] = tuple(named.values())

    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        size, tensors, names = self.batch_size, self._tensors, self._names
        # Made on the CPU, so that the order is the same on any device.
        order = self.order(epoch).to(tensors[0].device) if self.shuffle else None
        for start in range(first * size, len(self) * size, size):
            if order is None:
                batch = tuple([tensor[start : start + size] for tensor in tensors])
            else:
                samples = order[start : start + size]
                batch = tuple([tensor.index_select(0, samples) for tensor in tensors])
            yield batch if names is None else dict(zip(names, batch, strict=True))


def _samples(named: Mapping[Any, object]) -> int:
    """The number of samples, which all tensors have to share."""
    lengths, devices = {}, set()
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            told = f"{_called(name)} is {a_kind(tensor)}, and it wants tensors. Make one by torch.as_tensor()"
            raise ArgumentError(_WHO, "inputs", f"{told}, or use SampleBatches, which takes any dataset.")
        if tensor.dim() == 0:
            told = f"{_called(name)} is a scalar, and it wants a first dimension that counts the samples."
            raise ArgumentError(_WHO, "inputs", told)
        lengths[name] = tensor.shape[0]
        devices.add(str(tensor.device))
    if not lengths:
        raise ArgumentError(_WHO, "inputs", "the mapping is empty; it wants at least one tensor.")
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{_called(name)} has {length}" for name, length in lengths.items())
        raise ArgumentError(
            _WHO, "inputs", f"the tensors differ in length: {told}. Every sample needs its part in each."
        )
    if len(devices) > 1:
        told = f"the tensors are on {len(devices)} devices: {', '.join(sorted(devices))}. Move them to one by .to()."
        raise ArgumentError(_WHO, "inputs", told)
    return next(iter(lengths.values()))


def _called(name: object) -> str:
    return f"tensor {name}" if isinstance(name, int) else repr(name)
