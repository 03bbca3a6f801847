"""Sets of swapped units: which there are, what they change, and how far they are from the sum."""

import pytest
import torch

from disdiff.evaluation.composition import Swapped, list_sets, summarise_composition, swap_sets
from disdiff.evaluation.edit_success import FactorReader
from ldm.data.source import to_float
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError

SOURCE, TARGET = torch.tensor([[0, 0], [1, 1]]), torch.tensor([[1, 0], [0, 2]])


def make(joint):
    """Pictures of one pixel, in which each of the units 3 and 5 adds 1 and both add `joint`."""
    values = {(): 0.0, (3,): 1.0, (5,): 1.0, (3, 5): joint}
    return Swapped(list_sets([5, 3]), {units: torch.full((2, 1, 1, 1), v) for units, v in values.items()})


def test_sets_are_single_units_pairs_and_all():
    sets = list_sets([4, 0, 2, 4])
    assert sets == {"single": [(0,), (2,), (4,)], "pair": [(0, 2), (0, 4), (2, 4)], "all": [(0, 2, 4)]}
    with pytest.raises(UserError, match="all factors are assigned to unit 7"):
        list_sets([7, 7])


def test_rates_count_what_was_to_change_and_what_was_to_stay():
    """Alone each unit does its work; together unit 5 does nothing."""
    alone, other = TARGET.clone(), TARGET.clone()
    alone[:, 1], other[:, 0] = SOURCE[:, 1], SOURCE[:, 0]
    found = {(3,): alone, (5,): other, (3, 5): alone}
    rates = summarise_composition(make(joint=4.0), found, SOURCE, TARGET, {0: 3, 1: 5})
    assert rates["changed"]["single"] == 1.0 and rates["kept"]["single"] == 1.0
    assert rates["changed"]["pair"] == 0.5  # factor 0 of both images, factor 1 of none that differs
    assert rates["kept"]["pair"] is None and rates["residual"]["single"] is None
    assert rates["residual"]["pair"] == pytest.approx(0.5)  # 4 instead of 1 + 1
    assert summarise_composition(make(2.0), found, SOURCE, TARGET, {0: 3, 1: 5})["residual"]["all"] == 0
    assert summarise_composition(make(0.0), found, SOURCE, TARGET, {0: 3, 1: 5})["residual"]["all"] is None


def test_swapping_nothing_reconstructs_and_all_units_give_the_targets_code(model, halves):
    reader = FactorReader(model, halves, [], SamplerConfig("ddim", 10, 0.0))
    source, target = torch.tensor([3, 8]), torch.tensor([5, 1])
    shares = []
    swapped = swap_sets(reader, source, target, [0, 1, 2], shares.append)
    assert len(swapped.images) == 8 and shares[-1] == 1.0
    image = to_float(halves.images(source))
    plain = swapped.images[()]
    assert (plain - image).abs().mean() < 0.2 < (plain - to_float(halves.images(target))).abs().mean()
    assert swapped.change((0, 1, 2)).abs().max() > 0
    torch.testing.assert_close(
        swapped.sum_changes((0, 2)), swapped.change((0,)) + swapped.change((2,)), rtol=0, atol=1e-6
    )
