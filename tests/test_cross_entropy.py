"""Cross entropy of a few rows at a time."""

import pytest
import torch
from torch.nn import functional

from poolwise.cross_entropy import ROWS, CrossEntropy
from poolwise.encoder import masked_lm_loss


def losses_and_gradients(dtype, weight, count, drawn_in=None):
    """By poolwise and by torch, of rows of which two have no label."""
    torch.manual_seed(0)
    rows = 2 * ROWS + 5  # no multiple
    logits = (4 * torch.randn(rows, 300, dtype=drawn_in)).to(dtype)
    labels = torch.randint(300, (rows,))
    labels[[0, ROWS + 1]] = -100
    found = []
    for compute in (
        lambda logits: CrossEntropy.apply(logits, labels, count),
        lambda logits: (
            functional.cross_entropy(logits.to(torch.promote_types(dtype, torch.float32)), labels) * 67 / count
        ),
    ):
        leaf = logits.clone().requires_grad_()
        loss = compute(leaf)
        (gradient,) = torch.autograd.grad(weight * loss, leaf)
        found.append((loss.detach(), gradient))
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("weight", "count"), [(1.0, 67.0), (0.3, 100.0)])
def test_loss_and_gradient_are_those_of_torch(dtype, weight, count):
    (loss, gradient), (expected, expected_gradient) = losses_and_gradients(dtype, weight, count)
    assert loss.dtype == expected.dtype
    assert gradient.dtype == expected_gradient.dtype == dtype
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    # The weight is applied after rounding to bf16, where torch applies it before: two roundings.
    rounding = {torch.bfloat16: 2**-7, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(gradient, expected_gradient, rtol=rounding, atol=1e-9 if rounding > 1e-6 else 0)


def test_without_a_weight_bf16_gradients_are_rounded_once_as_torch_does():
    (_, gradient), (_, expected) = losses_and_gradients(torch.bfloat16, 1.0, 64.0)
    assert (gradient == expected).double().mean() > 0.999  # an fp32 rounding may tip one of bf16


def test_the_default_precision_of_new_tensors_decides_nothing():
    """Which Lightning's bf16-true and 64-true set."""
    usual = losses_and_gradients(torch.float32, 1.0, 255.0)[0]
    torch.set_default_dtype(torch.bfloat16)
    try:
        other = losses_and_gradients(torch.float32, 1.0, 255.0, torch.float32)[0]
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(usual[0], other[0])
    assert torch.equal(usual[1], other[1])


def test_a_gradient_can_be_asked_for_twice():
    logits = torch.randn(3, 5, requires_grad=True)
    loss = masked_lm_loss(logits, torch.tensor([1, 0, 4]))
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_without_a_gradient_to_come_none_is_made(monkeypatch):
    monkeypatch.setattr(torch, "empty_like", None)
    logits, labels = torch.randn(3, 5), torch.tensor([1, 0, 4])
    assert not masked_lm_loss(logits, labels).requires_grad
    with pytest.raises(TypeError):
        masked_lm_loss(logits.requires_grad_(), labels)


def test_gradients_in_fp16_are_scaled_before_they_are_rounded():
    logits = torch.zeros(2, 3, dtype=torch.float16, requires_grad=True)
    (2.0**20 * masked_lm_loss(logits, torch.tensor([0, 1]), 2**30)).backward()
    assert logits.grad.count_nonzero() == 6  # 2^-10 / 3 and so on; 2^-30 is 0 in fp16


def test_no_fp32_tensor_of_all_logits_is_made(monkeypatch):
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), named=None):
            result = function(*arguments, **(named or {}))
            made.extend(
                each.numel() for each in [result] if isinstance(each, torch.Tensor) and each.dtype == torch.float32
            )
            return result

    logits = torch.randn(4 * ROWS, 50).bfloat16().requires_grad_()
    with Watch():
        masked_lm_loss(logits, torch.zeros(4 * ROWS, dtype=torch.long)).backward()
    assert max(made) == ROWS * 50
