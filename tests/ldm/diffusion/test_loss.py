import pytest
import torch

from ldm.diffusion.loss import denoising_error
from ldm.errors import UserError


def test_means_over_all_axes_but_the_batchs():
    eps = torch.zeros(2, 1, 2, 2)
    eps_hat = torch.tensor([[1.0, -3.0, 0.0, 0.0], [2.0, 2.0, -2.0, 2.0]]).reshape(2, 1, 2, 2)
    assert denoising_error(eps_hat, eps, "l1").tolist() == [1, 2]
    assert denoising_error(eps_hat, eps, "l2").tolist() == [2.5, 4]
    assert denoising_error(eps_hat.flatten(1), eps.flatten(1), "l2").tolist() == [2.5, 4]


def test_bad_input_is_refused():
    eps = torch.zeros(2, 3)
    with pytest.raises(UserError, match="l1, l2"):
        denoising_error(eps, eps, "huber")
    with pytest.raises(ValueError, match=r"\(2, 3\) like eps, got \(2, 1\)"):
        denoising_error(eps[:, :1], eps, "l1")
