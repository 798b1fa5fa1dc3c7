"""Networks: shapes, initial weights, and the fast linear layer against torch's own."""

from functools import partial

import pytest
import torch
from helpers import small
from torch import nn

from riskvae import BetaVAE, nets
from riskvae.nets import Linear


@pytest.mark.parametrize("activation", nets.ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (4,), (8, 6)])
def test_mlp(activation, hidden):
    net = nets.mlp(4, 3, hidden_layer_sizes=hidden, activation=activation)
    assert net(torch.randn(6, 4)).shape == (6, 3)
    widths = [(m.in_features, m.out_features) for m in net.modules() if isinstance(m, nn.Linear)]
    assert widths == list(zip((4, *hidden), (*hidden, 3), strict=True))
    assert isinstance(net[-1], nn.Linear)


def test_initial_weights_are_xavier_uniform_with_zero_bias():
    layer = nets.Linear(300, 100)
    bound = (6 / 400) ** 0.5
    assert layer.bias.abs().max() == 0
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.parametrize("shape", [(28, 28), (1, 7, 7), (3, 8, 6), (2, 5, 9), (1, 1)])
@pytest.mark.parametrize("channels", [(4,), (4, 6), (2, 3, 4)])
def test_convolutions_return_rows_of_the_same_images(shape, channels):
    pixels = torch.Size(shape).numel()
    make = {"image_shape": shape, "channels": channels}
    assert nets.conv_encoder(pixels, 10, **make)(torch.randn(2, pixels)).shape == (2, 10)
    assert nets.conv_decoder(5, pixels, **make)(torch.randn(2, 5)).shape == (2, pixels)


def test_convolutions_see_the_image_as_it_lies_in_the_row():
    """A pixel reaches only the outputs whose windows hold it."""
    encoder = nets.conv_encoder(16 * 16, 4, channels=(1,))
    feature_map = encoder[:2]  # the first convolution
    image = torch.zeros(1, 256, requires_grad=True)
    feature_map(image)[0, 0, 3, 5].backward()
    rows, columns = image.grad.reshape(16, 16).nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 7, 9, 11)


@pytest.mark.parametrize("shape", [None, (5, 2), (1, 2, 3, 4)])
def test_images_of_another_size(shape):
    for make in (nets.conv_encoder, lambda n_in, n_out, **kw: nets.conv_decoder(n_out, n_in, **kw)):
        with pytest.raises(ValueError, match=r"does not describe rows of 24 pixels: expected \(height, width\)"):
            make(24, 4, image_shape=shape)


def test_convolutions_in_an_estimator(X):
    make = {"image_shape": (2, 3), "channels": (4,)}
    encoder, decoder = partial(nets.conv_encoder, **make), partial(nets.conv_decoder, **make)
    estimator = small(BetaVAE, encoder=encoder, decoder=decoder, max_epochs=20, lr=1e-2).fit(X)
    assert estimator.history_[-1]["train_loss"] < estimator.history_[0]["train_loss"]
    assert estimator.transform(X).shape == (300, 2)


# ------------------------------------------------------------------------------------- the fast layer


@pytest.fixture(params=[True, False], ids=["onednn", "plain"])
def onednn(request, monkeypatch):
    if request.param and not nets._linear._AVAILABLE:
        pytest.skip("a torch without oneDNN")
    monkeypatch.setattr(nets._linear, "_ONEDNN", request.param)
    monkeypatch.setattr(nets._linear, "_IN_INFERENCE", request.param)
    monkeypatch.setattr(nets._linear, "_LEAST", 0)
    return request.param


@pytest.mark.parametrize(("n", "n_in", "n_out"), [(1, 1, 1), (5, 3, 4), (256, 784, 512), (255, 20, 256), (33, 129, 7)])
def test_linear_agrees_with_torch(onednn, n, n_in, n_out):
    torch.manual_seed(0)
    layer = nets.Linear(n_in, n_out)
    nn.init.normal_(layer.bias)
    x, grad = torch.randn(n, n_in, requires_grad=True), torch.randn(n, n_out)
    found = torch.autograd.grad(layer(x), (x, *layer.parameters()), grad)
    y = layer(x)
    assert ("OneDNN" in type(y.grad_fn).__name__) == onednn
    double = [t.detach().double().requires_grad_() for t in (x, layer.weight, layer.bias)]
    reference = nn.functional.linear(*double)
    torch.testing.assert_close(y.double(), reference, rtol=1e-5, atol=1e-4)
    for a, b in zip(found, torch.autograd.grad(reference, double, grad.double()), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-3)


def test_linear_is_plain_where_more_is_asked_of_it(onednn):
    """Evaluation, other dtypes and function transforms get torch's layer, with all its derivatives."""
    layer = nets.Linear(3, 2)
    assert layer.double()(torch.randn(4, 3, dtype=torch.float64)).dtype == torch.float64
    layer.float().eval()
    x = torch.randn(4, 3)
    jacobian = torch.func.vmap(torch.func.jacrev(layer))(x)
    torch.testing.assert_close(jacobian, layer.weight.expand(4, 2, 3))
    assert layer.train()(torch.randn(2, 4, 3)).shape == (2, 4, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_training_is_the_same_either_way(X, monkeypatch):
    if not nets._linear._AVAILABLE:
        pytest.skip("a torch without oneDNN")
    monkeypatch.setattr(nets._linear, "_ONEDNN", True)
    monkeypatch.setattr(nets._linear, "_LEAST", 0)
    fast = small(BetaVAE).fit(X)
    monkeypatch.setattr(nets._linear, "_ONEDNN", False)
    torch.testing.assert_close(
        torch.tensor(small(BetaVAE).fit(X).transform(X)), torch.tensor(fast.transform(X)), rtol=1e-3, atol=1e-4
    )


def test_small_products_go_to_torch_in_training(monkeypatch):
    """The size of a product, rows x inputs x outputs, decides in training; in inference there is less to pay."""
    if not nets._linear._AVAILABLE:
        pytest.skip("a torch without oneDNN")
    monkeypatch.setattr(nets._linear, "_ONEDNN", True)
    monkeypatch.setattr(nets._linear, "_LEAST", 4 * 5 * 3)
    by, plain = [], nets._linear._onednn
    monkeypatch.setattr(nets._linear, "_onednn", lambda *given: by.append(len(given[0])) or plain(*given))
    layer = Linear(5, 3)
    for n in (3, 4):
        layer.train()(torch.ones(n, 5))
    assert by == [4]
    with torch.inference_mode():
        layer.eval()(torch.ones(2, 5))
    assert by == [4, 2]


def test_a_frozen_layer_passes_the_gradient_on():
    layer = Linear(5, 3).requires_grad_(False).train()
    x = torch.randn(4, 5, requires_grad=True)
    (found,) = torch.autograd.grad(layer(x).square().sum(), x)
    (expected,) = torch.autograd.grad(torch.nn.functional.linear(x, layer.weight, layer.bias).square().sum(), x)
    torch.testing.assert_close(found, expected)
    assert layer.weight.grad is None
