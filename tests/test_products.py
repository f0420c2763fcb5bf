"""Float32 products by oneDNN: right at every size, for any network, and so are their derivatives of any order."""

import pytest
import torch
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from inr_scenes.field import Field, build
from inr_scenes.fit import fit
from inr_scenes.kernels import products
from inr_scenes.kernels.choice import choose
from inr_scenes.kernels.products import WORTH, laid_out, over_rows, product, quick
from inr_scenes.signals.image import ImageSignal
from inr_scenes.siren import Siren
from inr_scenes.testing import small_signal

pytestmark = pytest.mark.skipif(not products.available(), reason="oneDNN is no quicker here")


@pytest.fixture
def taken(monkeypatch):
    """Shapes of the products that oneDNN was asked for."""
    shapes, real = [], products._onednn

    def watched(x, weight, bias=None):
        shapes.append((*x.shape, len(weight)))
        return real(x, weight, bias)

    monkeypatch.setattr(products, "_onednn", watched)
    return shapes


@pytest.mark.parametrize("rows, inner, columns", [(65, 256, 256), (9127, 33, 14), (4097, 256, 98), (640, 84, 129)])
def test_products_are_those_of_float64(rows, inner, columns, taken):
    a, b, c = torch.randn(rows, inner), torch.randn(columns, inner), torch.randn(rows, columns)
    for found, true in ((product(a, b, out=torch.empty(rows, columns)), a.double() @ b.double().T),
                        (product(c, b.T, out=torch.empty(rows, inner)), c.double() @ b.double()),
                        (over_rows(a, c), a.double().T @ c.double())):
        assert found.shape == true.shape
        assert (found - true).norm() < 1e-6 * true.norm()
    assert taken == [(rows, inner, columns), (rows, columns, inner)]


def test_a_weight_cut_from_a_larger_one_and_one_laid_out(taken):
    a, b = torch.randn(1000, 129), torch.randn(300, 200)[:, :129]
    out, true = torch.empty(1000, 300), a.double() @ b.double().T
    assert (product(a, b, out) - true).norm() < 1e-6 * true.norm()
    assert (product(a, laid_out(b, 1000), out) - true).norm() < 1e-6 * true.norm() and len(taken) == 2
    # cut as it is, a weight takes oneDNN a thousand times as long
    assert products._dense(b).is_contiguous() and products._dense(a.T).data_ptr() == a.data_ptr()


def test_sums_over_rows_of_wide_matrices_are_those_of_float64():
    a, b = torch.randn(1000, 256), torch.randn(1000, 130)
    true = a.double().T @ b.double()
    assert (over_rows(a, b) - true).norm() < 1e-6 * true.norm()


def test_half_precision_goes_where_it_went(taken):
    a, b = torch.randn(100, 256).bfloat16(), torch.randn(256, 256).bfloat16()
    out = torch.empty(100, 256, dtype=torch.bfloat16)
    assert product(a, b, out=out) is out and torch.equal(out, a @ b.T)
    assert torch.equal(over_rows(a, a), a.T @ a) and not taken


class Plain(Field):
    """A network of linear layers, as a plugin would write it."""

    name = "plain"

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.layers = torch.nn.Sequential(torch.nn.Linear(spec.in_features, 2000), torch.nn.Tanh(),
                                          torch.nn.Linear(2000, spec.out_features))

    def forward(self, coords):
        return self.layers(coords)


def test_any_field_is_evaluated_by_them_and_stays_as_it_was(taken):
    field = build(Plain, small_signal("image").spec, seed=0)
    coords = torch.rand(1200, 2) * 2 - 1
    found = field.stored_at(coords)
    assert taken == [(1200, 2, 2000), (1200, 2000, 3)]
    with choose("torch"):
        assert torch.allclose(field.stored_at(coords), found, atol=1e-6)
    assert len(taken) == 2


def derivatives(x, weight, bias, scale):
    """Return a layer's values, their first derivatives and those of a function of these."""
    inputs = [t.clone().requires_grad_() for t in (x, weight, bias)]
    values = linear(*inputs).sin()
    first = torch.autograd.grad((values * scale).sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs, create_graph=True)
    third = torch.autograd.grad(sum(g.square().sum() for g in second), inputs)
    return values, *first, *second, *third


@pytest.mark.parametrize("shape, columns", [((700, 160), 256), ((3, 250, 40), 300), ((2000, 300), 7)])
def test_derivatives_of_any_order_are_those_of_float64(shape, columns, taken):
    x, weight, bias = torch.randn(shape), torch.randn(columns, shape[-1]) / shape[-1], torch.randn(columns)
    scale = torch.randn(*shape[:-1], columns)
    with quick(torch.device("cpu")):
        found = derivatives(x, weight, bias, scale)
    assert len(taken) > 6
    for mine, true in zip(found, derivatives(*(t.double() for t in (x, weight, bias, scale)))):
        assert mine.shape == true.shape and (mine - true).norm() < 1e-5 * true.norm()


def test_a_fit_in_float32_takes_them_and_ends_as_with_torch(taken):
    signal, ends = ImageSignal.from_array(torch.rand(40, 30, 3).numpy()), []
    for kernel in ("auto", "torch"):
        field = build(Plain, signal.spec, seed=0)
        fit(field, signal, steps=5, batch=0, precision="32", kernel=kernel)
        ends.append(torch.cat([p.detach().flatten() for p in field.parameters()]))
        assert (len(taken) >= 15) is (kernel == "auto")
        taken.clear()
    assert torch.allclose(*ends, atol=1e-5)


def test_any_number_of_rows_asks_for_few_products(taken):
    field = build(Siren, small_signal("image").spec, {"hidden_features": 256}, seed=0)
    coords = torch.rand(5000, 2) * 2 - 1
    whole = field.stored_at(coords)
    taken.clear()
    for count in (700, 701, 760, 4096, 4097, 4999):
        assert torch.allclose(field.stored_at(coords[:count]), whole[:count], atol=1e-5)
    assert {rows for rows, *_ in taken} == {768, 4096, 1, 1024}


def test_what_is_done_again_for_its_derivatives_is_done_alike(taken):
    x, weight = torch.randn(3000, 64, requires_grad=True), torch.randn(64, 64)
    with quick(torch.device("cpu")):
        values = checkpoint(lambda x: linear(x, weight).sin(), x, use_reentrant=False)
    assert torch.autograd.grad(values.sum(), x)[0].isfinite().all() and not taken


def test_few_rows_and_other_types_are_left_to_torch(taken):
    x, weight = torch.randn(1024, 64), torch.randn(WORTH >> 16, 64)
    with torch.no_grad(), quick(torch.device("cpu")):
        assert torch.equal(linear(x[1:], weight), x[1:] @ weight.T)
        assert linear(x.double(), weight.double()).dtype is torch.float64
        assert torch.func.vmap(linear, (0, None))(x.view(2, -1, 64), weight).shape == (2, 512, 64)
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, weight).dtype is torch.bfloat16
        assert not taken
        assert torch.allclose(linear(x, weight), x @ weight.T, atol=1e-5) and taken


def test_whatever_asks_first_whether_it_is_there():
    for context in (torch.autocast("cpu", torch.bfloat16), torch.inference_mode()):
        products.available.cache_clear()
        with context:
            assert products.available()


def test_without_onednn_torch_does_it(monkeypatch, taken):
    monkeypatch.setattr(products, "available", lambda: False)
    a, out = torch.randn(200, 256), torch.empty(200, 256)
    assert product(a, torch.eye(256), out=out) is out and torch.equal(out, a)
    assert torch.equal(over_rows(a, a), a.T @ a)
    with torch.no_grad(), quick(torch.device("cpu")):
        assert torch.equal(linear(a, torch.eye(256)), a)
    assert not taken
