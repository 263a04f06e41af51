"""Masks: how much is dropped, what is kept unbiased, what the seed decides."""

import pytest
import torch
from torch import nn

from persona_lab.model.dropout import FastDropout, quicken


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_drops_the_share_asked_for_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    out = FastDropout(p)(torch.ones(1001, 999))
    n = out.numel()
    assert (out == 0).sum() / n == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5)
    assert out.max() == pytest.approx(1 / (1 - p), rel=1e-4)
    assert out.mean() == pytest.approx(1, abs=0.005)


def test_gradients_pass_where_the_input_did() -> None:
    torch.manual_seed(0)
    given = torch.ones(7, 9, dtype=torch.float64, requires_grad=True)
    out = FastDropout(0.3)(given)
    out.sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(given.grad, out.detach())


def test_masks_follow_the_seed_and_differ_from_call_to_call() -> None:
    drop, given = FastDropout(0.5), torch.ones(100)

    def two() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return [drop(given), drop(given)]

    first, second = two()
    assert not torch.equal(first, second)
    assert all(map(torch.equal, two(), [first, second]))


def test_evaluation_and_no_dropout_change_nothing() -> None:
    given = torch.randn(5)
    assert FastDropout(0.0)(given) is given
    assert FastDropout(0.5).eval()(given) is given


def test_replaces_plain_dropout_only_and_keeps_its_probability() -> None:
    model = nn.ModuleDict(
        {"a": nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2)), "b": nn.Identity()}
    )
    quicken(model)
    assert isinstance(model["a"], nn.Sequential)
    replaced = model["a"][1]
    assert isinstance(replaced, FastDropout)
    assert replaced.p == 0.2
    assert isinstance(model["b"], nn.Identity)
