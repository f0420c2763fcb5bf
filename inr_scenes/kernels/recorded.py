"""A training step recorded once as a CUDA graph, then replayed: one launch where plain torch needs hundreds."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import SetAside

WARM = 4                            # steps taken plainly first: optimisers make their state, kernels are proved


def recordable(device: torch.device) -> bool:
    """Say whether a device can record work to replay it."""
    return device.type == "cuda"


class Graph:
    """What a function did on a CUDA device, to be done again on the same memory."""

    def __init__(self, device: torch.device):
        self.device, self.graph, self.stream = device, torch.cuda.CUDAGraph(), torch.cuda.Stream(device)

    def warm(self, work: Callable[[], Any]) -> Any:
        """Do the work on the stream it will be recorded on, as CUDA wants it before."""
        here = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            result = work()
        here.wait_stream(self.stream)
        pytree.tree_map_only(Tensor, lambda tensor: tensor.record_stream(here), result)
        return result

    def record(self, work: Callable[[], Any]) -> Any:
        """Record the work without doing it; returns where its result will lie."""
        here = torch.cuda.current_stream(self.device)
        try:
            # other threads may talk to the device meanwhile: a viewer does
            with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
                return work()
        finally:
            torch.cuda.set_stream(here)         # a capture that failed may leave its own

    def replay(self) -> None:
        """Do the work again."""
        self.graph.replay()


class Recorded:
    """A step, work(parts) → tensors, that is recorded after a few steps; a device is then told to do it all at once.

    parts: tensors, and what holds them; a step's are copied to where the recorded ones lay. Parts of other shapes are
    worked on plainly, and so is everything, with one line, where a step cannot be recorded because it asks the device
    for something; forget() then drops what the attempt left behind. The work may depend on the host by nothing that
    changes from step to step.
    """

    def __init__(self, work: Callable[[Iterable], Any], make: Callable[[], Graph], forget: Callable[[], None]):
        self.work, self.make, self.forget = work, make, forget
        self.graph: Graph | None = None
        self.parts: list[Any] = []
        self.steps, self.ready, self.aside = 0, False, ""

    def __call__(self, parts: Iterable) -> Any:
        """Take a step and return what it gives."""
        if self.aside:
            return self.work(parts)
        parts = list(parts)
        self.graph = self.graph or self.make()
        if self.steps < WARM:
            self.steps += 1
            return self.graph.warm(lambda: self.work(parts))
        if not self.ready and not self._recorded(parts):
            return self.work(parts)
        if not self._placed(parts):
            return self.work(parts)
        self.graph.replay()
        return pytree.tree_map_only(Tensor, torch.clone, self.result)           # the next step writes over it

    def _recorded(self, parts: list) -> bool:
        try:
            self.parts = pytree.tree_map_only(Tensor, torch.clone, parts)
            self.result = self.graph.record(lambda: self.work(self.parts))
            self.ready = True
        except Exception as error:              # whatever a driver raises
            reason = next(iter(str(error).strip().splitlines()), "")
            self.aside = f"{type(error).__name__}: {reason}"[:200]
            self.graph, self.parts = None, []
            self.forget()
            warnings.warn(f"Steps are not recorded, each is launched piece by piece: {self.aside}", SetAside,
                          stacklevel=4)
        return self.ready

    def _placed(self, parts: list) -> bool:
        """Copy parts to where the recorded ones lie, if they are like them."""
        (mine, shape), (given, other) = (pytree.tree_flatten(p) for p in (self.parts, parts))
        if shape != other or not all(_alike(a, b) for a, b in zip(mine, given)):
            return False
        pairs = [(a, b) for a, b in zip(mine, given) if isinstance(a, Tensor)]
        torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])
        return True


def _alike(mine: Any, given: Any) -> bool:
    if isinstance(mine, Tensor):
        return isinstance(given, Tensor) and (mine.shape, mine.dtype, mine.device) == \
            (given.shape, given.dtype, given.device)
    return type(mine) is type(given) and mine == given
