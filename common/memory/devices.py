"""From the step of one device that holds everything to what each of several holds, by strategy."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from common.memory.trace import Trace, Weights

Strategy = Literal["ddp", "zero2", "fsdp"]
STRATEGIES: tuple[Strategy, ...] = ("ddp", "zero2", "fsdp")

CONTEXT = 0.6e9  # of CUDA and its libraries in a process; an assumption, not measured
BUCKET = 2e8  # numbers in each of DeepSpeed's communication buckets, in the configuration that is used
FOUR_BITS = 0.5 + (1 / 64 + 4 / (64 * 256))  # bytes a number: NF4 and its scales, themselves in 8 bits (2305.14314, 3)


class Need(NamedTuple):
    """Bytes that a device needs at the highest moment of a run, and when that is."""

    frozen: float
    trained: float
    gradients: float
    optimizer: float
    activations: float
    rest: float
    when: str
    average: float = 0.0

    @property
    def _sizes(self) -> tuple[float, ...]:
        return (self.frozen, self.trained, self.gradients, self.optimizer, self.activations, self.rest, self.average)

    @property
    def total(self) -> float:
        """All parts."""
        return sum(self._sizes)


def need(
    traced: Callable[[Weights], Trace],
    *,
    strategy: Strategy,
    devices: int,
    gpu: bool,
    accumulate: int = 1,
    packed: bool = False,
    average: bool = False,
) -> Need:
    """What each device needs.

    Args:
        traced: the step with weights in one of the forms; asked for the one that the strategy takes.
        strategy: how the parts are divided; with one device ddp is a plain run.
        devices: N.
        gpu: whether they are GPUs.
        accumulate: micro-batches of an optimizer step.
        packed: the frozen matrices of the language model are in 4 bits.
        average: a moving average of what trains is held beside it, in float32 (`common.ema`).
    """
    divide = {"ddp": _ddp, "zero2": _zero2, "fsdp": _fsdp}[strategy]
    forms: dict[str, Weights] = {"ddp": "own", "zero2": "bfloat16", "fsdp": "blocks_bfloat16"}
    trace = traced(forms[strategy])
    highest = max(divide(trace, devices, accumulate), key=lambda each: each.total)
    if packed:
        sizes = trace.sizes
        saved = sizes.packable - FOUR_BITS * sizes.packable_count
        unpacked = 2 * sizes.packable_largest_count  # one matrix at a time is unpacked to be multiplied
        highest = highest._replace(frozen=highest.frozen - saved, rest=highest.rest + unpacked)
    held = 4 * trace.sizes.trained_count / (devices if strategy == "fsdp" else 1) if average else 0
    return highest._replace(rest=highest.rest + (CONTEXT if gpu else 0), average=held)


def _ddp(trace: Trace, devices: int, accumulate: int) -> list[Need]:
    """Everything on each device.

    With N > 1 also the buckets that gradients are summed in, of their size (PyTorch, DistributedDataParallel,
    `gradient_as_bucket_view`).

    Lightning frees the gradients of a step after the next forward pass, so that both meet at its end.
    """
    sizes, buckets = trace.sizes, trace.gradients if devices > 1 else 0
    held = (sizes.frozen, sizes.trained)
    needs = [
        Need(
            *held,
            trace.gradients if accumulate > 1 else moment.gradients,
            trace.states,
            moment.activations,
            moment.copies + buckets,
            "forward and backward",
        )
        for moment in trace.moments
    ]
    return [*needs, Need(*held, trace.gradients, trace.states, 0, trace.step + buckets, "the optimizer step")]


def _zero2(trace: Trace, devices: int, accumulate: int) -> list[Need]:
    """DeepSpeed ZeRO stage 2 in bfloat16 (Rajbhandari et al., arXiv:1910.02054, section 5).

    All weights in 2 bytes on each device; 2 bytes of gradient and 4 + 8 bytes of float32 master and Adam's moments a
    trained number lie over N.

    Beside them one bucket to gather and two to reduce (the second is filled while the first is sent), and in the step
    the float32 gradients of the device's share.
    """
    count = trace.sizes.trained_count
    states = trace.states * 4 * count / max(1, trace.gradients) + 4 * count
    held = (2 * trace.sizes.frozen_count, 2 * count, 2 * count / devices, states / devices)
    buckets = 3 * 2 * min(BUCKET, count)
    busy = max(moment.activations + moment.copies for moment in trace.moments)
    return [
        Need(*held, busy, buckets, "forward and backward"),
        Need(*held, 0, buckets + 4 * count / devices, "the optimizer step"),
    ]


def _fsdp(trace: Trace, devices: int, accumulate: int) -> list[Need]:
    """FSDP2 as `common.parallel` sets it up (Zhao et al., arXiv:2304.11277, section 3; torch.distributed.fsdp).

    Weights, gradients and optimizer state lie over N devices, in the dtype of the weights.

    Beside them, during the step: the root whole, with its gradients; of the blocks two in bfloat16 (one at work, the
    next gathered ahead) and the buffer that a third arrives in; of what trains in a block its gradient in bfloat16 and
    two float32 buffers to reduce. In an evaluation the whole model, blocks in bfloat16. In 32-true all is float32.
    """
    sizes = trace.sizes
    scale = sizes.trained / max(1, trace.gradients)  # from the dtype of the trace to that of the weights
    held = (sizes.frozen / devices, sizes.trained / devices, sizes.trained / devices, trace.states * scale / devices)
    width = trace.width
    units = 3 * width * sizes.largest_count + (width + 2 * 4) * sizes.largest_trained_count
    busiest = max(trace.moments, key=lambda moment: moment.activations + moment.copies)
    gathered = sizes.root + sizes.root_trained + units
    return [
        Need(*held, busiest.activations, busiest.copies + gathered, "forward and backward"),
        Need(*held, 0, trace.step * scale / devices, "the optimizer step"),
        Need(*held, 0, sizes.root + width * sizes.units_count, "evaluation"),
    ]
