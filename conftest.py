"""Triton's kernels run in its interpreter where there is no GPU; that is decided before anything imports triton."""

import math
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def poisoned(monkeypatch):
    """Give kernels memory full of NaN: what they leave unwritten or read without having written shows."""
    def fill(make):
        def made(*args, **kwargs):
            empty = make(*args, **kwargs)
            return empty.fill_(math.nan) if empty.is_floating_point() else empty.fill_(-12345)
        return made

    monkeypatch.setattr(torch.Tensor, "new_empty", fill(torch.Tensor.new_empty))
    monkeypatch.setattr(torch, "empty_like", fill(torch.empty_like))


@pytest.fixture
def interpreted_bfloat16(monkeypatch):
    """Let Triton's interpreter multiply bfloat16, which it holds as the bits of a uint16 and would multiply as such."""
    if torch.cuda.is_available():
        return
    from triton.runtime import interpreter

    def widened(handle):
        if handle.dtype.scalar != interpreter.tl.bfloat16:
            return handle
        data = (handle.data.astype("uint32") << 16).view("float32")
        return interpreter.TensorHandle(data, interpreter.tl.float32)

    plain = interpreter.InterpreterBuilder.create_dot
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot",
                        lambda self, a, b, *rest: plain(self, widened(a), widened(b), *rest))
