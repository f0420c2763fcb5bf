"""Which path computes a fit: what is chosen, what is refused, what is set aside, and that nothing is said twice."""

import importlib.util
import subprocess
import sys
import warnings

import pytest
import torch

from inr_scenes.errors import InrError, SetAside
from inr_scenes.field import build
from inr_scenes.fit import FitConfig, fit
from inr_scenes.kernels import choice, dispatch, mlp, mlp_native, native
from inr_scenes.kernels.network import Net, reference
from inr_scenes.siren import Siren
from inr_scenes.testing import small_signal

needs_interpreter = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or torch.cuda.is_available(), reason="needs triton and no GPU")
SMALL = {"hidden_features": 16, "hidden_layers": 1}


@pytest.fixture(autouse=True)
def _nothing_proved(monkeypatch):
    monkeypatch.setattr(choice, "_proved", {})


def fitted(kernel: str, signal=None, steps: int = 4, **changes):
    signal = signal or small_signal("image")
    field = build(Siren, signal.spec, SMALL, seed=0)
    result = fit(field, signal, FitConfig(steps=steps, lr=1e-3, batch=64, device="cpu", kernel=kernel, **changes))
    return torch.cat([p.detach().flatten() for p in result.field.parameters()])


@needs_interpreter
def test_a_fused_fit_is_the_plain_one(monkeypatch):
    calls = []
    plain = mlp.mlp
    monkeypatch.setattr(mlp, "mlp", lambda *args: calls.append(1) or plain(*args))
    fused = fitted("fused")
    assert len(calls) >= 5                      # the self-check and four steps
    torch.testing.assert_close(fused, fitted("torch"), atol=1e-5, rtol=1e-4)
    assert not choice.set_aside()


@needs_interpreter
@pytest.mark.parametrize("broken", [
    lambda *args: (_ for _ in ()).throw(RuntimeError("out of resource: shared memory\nand much more")),
    lambda net, dtype, x, tensors: 1.2 * reference(net, x, tensors)], ids=["fails", "wrong"])
def test_a_kernel_that_fails_is_set_aside_with_one_line(monkeypatch, broken):
    monkeypatch.setattr(mlp, "mlp", broken)
    with pytest.warns(UserWarning, match="set aside, plain torch goes on") as said:
        result = fitted("fused")
    assert len(said) == 1 and "\n" not in str(said[0].message)
    assert torch.equal(result, fitted("torch")) and len(choice.set_aside()) == 1


@needs_interpreter
def test_the_command_line_says_it_in_one_line(inr, samples, monkeypatch):
    monkeypatch.setattr(mlp, "mlp", lambda *args: 1 / 0)
    with pytest.warns(SetAside, match="plain torch goes on: ZeroDivisionError: division by zero$") as said:
        status, _, _ = inr("fit", "siren", next(samples.rglob("*.png")), "--steps", 2, "--batch", 64,
                           "--hidden-features", 16, "--device", "cpu", "--kernel", "fused", "-o", "run")
    assert status == 0 and len(said) == 1


def test_auto_on_a_cpu_is_in_c_and_never_in_tritons_interpreter(monkeypatch):
    monkeypatch.setattr(mlp, "mlp", lambda *args: pytest.fail("the kernel was called"))
    calls = []
    plain = mlp_native.sines
    monkeypatch.setattr(mlp_native, "sines", lambda *args: calls.append(1) or plain(*args))
    torch.testing.assert_close(fitted("auto"), fitted("torch"), atol=1e-5, rtol=1e-4)
    assert len(calls) > 4 or native.library(native.SINES, torch.float32) is None


def test_without_a_compiler_auto_on_a_cpu_is_plain_torch(monkeypatch):
    monkeypatch.setattr(mlp_native, "library", lambda source, dtype: None)
    assert torch.equal(fitted("auto"), fitted("torch"))
    assert torch.equal(fitted("auto", precision="bf16"), fitted("torch", precision="bf16"))


def test_fused_where_it_is_impossible_is_one_clear_line(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(mlp_native, "library", lambda source, dtype: None)
    with pytest.raises(InrError, match=r"--kernel fused is not possible: there is no C compiler.*--kernel auto"):
        fitted("fused")
    monkeypatch.setattr(choice, "has_triton", lambda: False)
    assert "pip install triton" in dispatch.obstacle(Net(), (2, 16, 1, 3), torch.device("cuda"))
    assert torch.equal(fitted("auto"), fitted("torch"))


@needs_interpreter
def test_fused_is_refused_for_fields_and_sizes_without_a_kernel():
    signal = small_signal("image")
    wide = build(Siren, signal.spec, {"hidden_features": 512, "hidden_layers": 1}, seed=0)
    with pytest.raises(InrError, match="a width of 16 to 256, not 512"):
        fit(wide, signal, FitConfig(steps=1, kernel="fused", device="cpu"))
    with pytest.raises(InrError, match="not known"):
        fitted("fast")


def test_the_command_line_takes_the_kernel(inr, samples, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    image = next(samples.rglob("*.png"))
    flags = ("--steps", 2, "--batch", 64, "--device", "cpu")
    status, _, err = inr("fit", "siren", image, *flags, "--hidden-features", 8, "--kernel", "fused", "-o", "refused")
    assert status == 1 and len(err.strip().splitlines()) == 1 and "--kernel fused is not possible" in err
    status, _, _ = inr("fit", "siren", image, *flags, "--kernel", "torch", "-o", "run")
    assert status == 0
    with open("run/config.toml") as file:
        assert 'kernel = "torch"' in file.read()


def test_doctor_says_which_paths_are_active(inr):
    status, out, _ = inr("doctor", "--json")
    assert status == 0 and '"kernels": "ok: on ' in out


def test_compile_is_used_and_leaves_no_trace(monkeypatch):
    calls = []

    def compiled(function):
        return lambda x: calls.append(torch.is_grad_enabled()) or function(x)

    monkeypatch.setattr(torch, "compile", compiled)
    assert torch.equal(fitted("compile"), fitted("torch"))
    assert len(calls) == 5 and all(calls)       # once more for the self-check; evaluation stays plain
    signal = small_signal("image")
    field = build(Siren, signal.spec, SMALL, seed=0)
    fit(field, signal, FitConfig(steps=1, batch=64, device="cpu", kernel="compile"))
    assert "forward" not in vars(field)


@pytest.mark.parametrize("broken", [
    lambda function: lambda x: (_ for _ in ()).throw(RuntimeError("no compiler\nfound")),
    lambda function: lambda x: 1.2 * function(x)], ids=["fails", "wrong"])
def test_compile_that_fails_is_set_aside_with_one_line(monkeypatch, broken):
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match=r"torch\.compile is set aside") as said:
        result = fitted("compile")
    assert len(said) == 1 and "\n" not in str(said[0].message)
    assert torch.equal(result, fitted("torch"))


@pytest.mark.slow
def test_compiled_fit_is_the_plain_one():
    with warnings.catch_warnings():
        warnings.simplefilter("error", SetAside)
        compiled = fitted("compile", steps=10)
    torch.testing.assert_close(compiled, fitted("torch", steps=10), atol=1e-4, rtol=1e-3)


def test_no_kernel_is_imported_before_it_is_needed():
    code = ("import sys\n"
            "from inr_scenes.field import build\n"
            "from inr_scenes.fit import FitConfig, fit\n"
            "from inr_scenes.siren import Siren\n"
            "from inr_scenes.testing import small_signal\n"
            "signal = small_signal('image')\n"
            "fit(build(Siren, signal.spec, {'hidden_features': 16}), signal, FitConfig(steps=2, device='cpu'))\n"
            "assert not {'inr_scenes.kernels.sines_triton', 'inr_scenes.kernels.mlp_triton'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_fits_on_a_gpu_agree():
    signal, found = small_signal("image"), {}
    for kernel in ("torch", "compile", "fused"):
        field = build(Siren, signal.spec, {"hidden_features": 64, "hidden_layers": 2}, seed=0)
        config = FitConfig(steps=200, lr=1e-3, precision="fp16", device="cuda", kernel=kernel)
        found[kernel] = fit(field, signal, config).metrics["psnr"]
    assert not choice.set_aside()
    assert max(found.values()) - min(found.values()) < 0.5, found
