"""Half precision, with overflows and skipped updates: bit for bit as by hand."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from learner import Callback, Learner, Skip, before, supervised
from learner.callbacks import ClipGradients, Schedule

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_optimizer(model: nn.Module) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def make_fused(model: nn.Module) -> Optimizer:
    """One that leaves out, inside its kernel, an update whose gradients overflow."""
    return torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)


def parts_for(device: str = "cpu", make: Callable[[nn.Module], Optimizer] = make_optimizer) -> SimpleNamespace:
    """A network that keeps statistics. One sample in eight has a target so far off that its gradient overflows."""
    inputs, targets = torch.randn(60, 5), torch.randn(60, 1)
    targets[::8] *= 3000
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1)).to(device)
    return SimpleNamespace(
        model=model,
        optimizer=make(model),
        train=DataLoader(TensorDataset(inputs[:44], targets[:44]), batch_size=4, shuffle=True),
        valid=DataLoader(TensorDataset(inputs[44:], targets[44:]), batch_size=8),
    )


def make_schedule(optimizer: Optimizer) -> OneCycleLR:
    return OneCycleLR(optimizer, max_lr=0.05, total_steps=40)


def by_hand(
    parts: SimpleNamespace,
    precision: str,
    *,
    accumulate: int | None = None,
    microbatches: int | None = None,
    finite_only: bool = False,
    device: str = "cpu",
) -> tuple[list[Tensor], list[bool]]:
    """Two epochs; the losses, and which updates were made."""
    model, optimizer = parts.model, parts.optimizer
    scaler, scheduler = GradScaler(device, enabled=precision == "fp16"), make_schedule(optimizer)
    losses: list[Tensor] = []
    made: list[bool] = []
    for _ in range(2):
        model.train()
        size = 0
        for number, (inputs, targets) in enumerate(parts.train, start=1):
            inputs, targets = inputs.to(device), targets.to(device)
            length = -(-len(inputs) // (microbatches or 1))
            for some, their in zip(inputs.split(length), targets.split(length), strict=True):
                with torch.autocast(device, DTYPES[precision], enabled=precision != "fp32"):
                    loss = F.mse_loss(model(some), their)
                scaler.scale(loss * (len(some) / len(inputs)) if microbatches else loss).backward()
                losses.append(loss.detach())
            size += 1
            if size < (accumulate or 1) and number < len(parts.train):
                continue
            scaler.unscale_(optimizer)
            if accumulate:
                for parameter in model.parameters():
                    parameter.grad /= size
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            if not finite_only or bool(norm.isfinite()):
                scale = scaler.get_scale()
                scaler.step(optimizer)
                scaler.update()
                made.append(scaler.get_scale() >= scale)
            else:
                made.append(False)
            if made[-1]:
                scheduler.step()
            optimizer.zero_grad()
            size = 0
        model.eval()
        with torch.no_grad(), torch.autocast(device, DTYPES[precision], enabled=precision != "fp32"):
            losses += [F.mse_loss(model(inputs.to(device)), targets.to(device)) for inputs, targets in parts.valid]
    model.train()
    losses.append(torch.tensor(scaler.get_scale()))
    return losses, made


class SkipNonFinite(Callback):
    """Leave an update out where a gradient is infinite or NaN, as `GradScaler` does for float16."""

    @before("update", reads=("grad_norm",))
    def look(self, grad_norm: Tensor) -> None:
        if not grad_norm.isfinite():
            raise Skip("a gradient is not finite")


def staged(
    parts: SimpleNamespace, precision: Any, *callbacks: Callback, device: str = "cpu", debug: bool = True, **tree: Any
) -> tuple[list[Tensor], list[bool]]:
    """The same as stages, with everything looked at on every batch."""
    learner = Learner(
        parts.model,
        F.mse_loss,
        parts.optimizer,
        train=parts.train,
        valid=parts.valid,
        stages=supervised(**tree),
        callbacks=[ClipGradients(0.5), *callbacks, Schedule(make_schedule)],
        precision=precision,
        device=device,
    )
    learner.debug(debug)
    losses: list[Tensor] = []
    made: list[bool] = []
    for slot in ("gradient/loss", "validate_loss"):
        learner.after(slot)(lambda state: losses.append(state.loss.detach()))
    learner.after("update")(lambda state, outcome: made.append(outcome.ok))
    learner.fit(epochs=2)
    assert learner.outcome.ok
    assert learner.state.updates == sum(made), "an update that is left out does not count"
    losses.append(torch.tensor(learner.state.scaler.get_scale() if precision == "fp16" else 1.0))
    return losses, made


@pytest.fixture(name="proves")
def proves_fixture(proves_equal: Any) -> Any:
    """The proof that both loops come to the same, where some updates are left out and some are made."""

    def proves(build: Any, hand: Any, ours: Any, *, skips: bool) -> None:
        made: list[list[bool]] = []

        def noted(run: Any) -> Any:
            def go(parts: SimpleNamespace) -> Any:
                losses, which = run(parts)
                made.append(which)
                buffers = [one for one in parts.model.buffers() if one.is_floating_point()]
                assert buffers and all(bool(one.isfinite().all()) for one in buffers), "statistics stay finite"
                assert all(bool(one.isfinite().all()) for one in parts.model.parameters())
                return losses

            return go

        proves_equal(build, noted(hand), noted(ours))
        assert made[0] == made[1] == made[2]
        assert any(made[0]) and skips == (not all(made[0]))

    return proves


TREES: list[dict[str, Any]] = [{}, {"accumulate": 2}, {"microbatches": 2}, {"accumulate": 2, "microbatches": 2}]


@pytest.mark.parametrize("tree", TREES, ids=["plain", "accumulated", "microbatches", "both"])
def test_bf16_under_autocast(tree: dict[str, Any], proves: Any) -> None:
    proves(parts_for, lambda p: by_hand(p, "bf16", **tree), lambda p: staged(p, "bf16", **tree), skips=False)


@pytest.mark.parametrize("tree", TREES, ids=["plain", "accumulated", "microbatches", "both"])
def test_fp16_with_updates_that_overflow(tree: dict[str, Any], proves: Any) -> None:
    proves(parts_for, lambda p: by_hand(p, "fp16", **tree), lambda p: staged(p, "fp16", **tree), skips=True)


def test_fp16_with_an_optimizer_that_skips_inside_its_kernel(proves: Any) -> None:
    def build() -> SimpleNamespace:
        return parts_for(make=make_fused)

    proves(build, lambda p: by_hand(p, "fp16"), lambda p: staged(p, "fp16"), skips=True)


def poisoned(parts: SimpleNamespace) -> SimpleNamespace:
    """The same with a target in eight that is infinite: loss and gradients are, outputs and statistics are not."""
    targets: Tensor = parts.train.dataset.tensors[1]
    targets[::8] = float("inf")
    return parts


@pytest.mark.parametrize("tree", TREES[:3], ids=["plain", "accumulated", "microbatches"])
def test_bf16_whose_non_finite_updates_a_hook_skips(tree: dict[str, Any], proves: Any) -> None:
    def ours(parts: SimpleNamespace) -> Iterator[Any]:
        return staged(parts, "bf16", SkipNonFinite(), **tree)  # type: ignore[return-value]

    def build() -> SimpleNamespace:
        return poisoned(parts_for())

    proves(build, lambda p: by_hand(p, "bf16", finite_only=True, **tree), ours, skips=True)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "skips"), [("bf16", False), ("fp16", True)])
@pytest.mark.parametrize("tree", TREES[:2], ids=["plain", "accumulated"])
def test_half_precision_on_a_gpu(precision: str, skips: bool, tree: dict[str, Any], proves: Any) -> None:
    proves(
        lambda: parts_for("cuda"),
        lambda p: by_hand(p, precision, device="cuda", **tree),
        lambda p: staged(p, precision, device="cuda", **tree),
        skips=skips,
    )
