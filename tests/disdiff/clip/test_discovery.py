import math

import numpy as np
import pytest
import torch

from disdiff.clip.discovery import (
    MIN_EFFECT,
    Finding,
    correct_holm,
    group_units,
    judge_names,
    judge_scores,
    name_displacements,
    null_scores,
    typical_distance,
)


def move(line, embeddings, length=0.5, noise=0.1, count=30):
    """Displacements of `count` images along a line, shape (count, DIM)."""
    generator = torch.Generator().manual_seed(int(line.argmax()))
    size = length * typical_distance(embeddings)
    return size * (line + noise * torch.randn(count, len(line), generator=generator))


@pytest.fixture
def name(directions, embeddings):
    def apply(*moved):
        generator = torch.Generator().manual_seed(0)
        return name_displacements(
            list(range(len(moved))), torch.stack(moved), directions, embeddings, generator
        )

    return apply


def test_a_unit_that_moves_as_a_text_does_gets_its_name(name, directions, embeddings):
    size, wall = directions.contrasts[3], directions.contrasts[0]
    first, second = name(move(size, embeddings), move(-wall, embeddings))
    assert (first.verdict, first.name, first.values) == ("named", "size", ("small", "large"))
    assert (second.verdict, second.name, second.values) == ("named", "wall", ("green", "red"))
    assert first.score > 0.9 and first.margin > 0.5 and first.consistency == 1.0
    assert first.p_corrected < 0.01


def test_a_unit_between_two_names_has_no_margin_and_no_direction_no_name(name, directions, embeddings):
    both = (directions.contrasts[3] + directions.contrasts[4]) / math.sqrt(2)
    nothing = torch.eye(12)[6]  # of which no text speaks
    split, strange = name(move(both, embeddings), move(nothing, embeddings))
    assert split.margin < 0.1 and {split.name, split.second} == {"size", "sky"}
    assert strange.verdict == "not named" and strange.p_corrected == 1.0


def test_a_unit_that_hardly_moves_has_no_effect_whatever_its_direction(name, directions, embeddings):
    still = move(directions.contrasts[3], embeddings, length=0.5 * MIN_EFFECT)
    found, other = name(still, move(directions.contrasts[4], embeddings))
    assert found.verdict == "no effect" and found.score > 0.9 and found.p_corrected == 1.0
    assert found.effect == pytest.approx(0.5 * MIN_EFFECT, rel=0.2)
    assert other.p_corrected == pytest.approx(other.p)  # only one unit is counted


def test_consistency_is_the_share_of_images_that_move_the_named_way(name, directions, embeddings):
    moved = move(directions.contrasts[3], embeddings, noise=0.0)
    moved[:6] *= -0.5
    (found,) = name(moved)
    assert found.consistency == pytest.approx(24 / 30)


def test_chance_names_no_more_than_its_level(directions, embeddings, monkeypatch):
    """Units that move in random directions of the data are named in 5 % of the families at most."""
    generator, wrong = torch.Generator().manual_seed(0), 0
    chance = null_scores(directions, embeddings, generator, 4000)
    monkeypatch.setattr("disdiff.clip.discovery.null_scores", lambda *arguments: chance)
    centred = embeddings - embeddings.mean(dim=0)
    families = 60
    for _ in range(families):
        lines = torch.nn.functional.normalize(torch.randn(8, 300, generator=generator) @ centred, dim=1)
        moved = lines[:, None].expand(-1, 4, -1)
        found = name_displacements(list(range(8)), moved, directions, embeddings, generator)
        wrong += any(each.verdict == "named" for each in found)
    assert wrong / families < 0.15


def test_p_values_of_random_directions_are_uniform(directions, embeddings):
    """The exact property behind every control: what moves as chance does gets every p-value equally often."""
    count, generator = 400, torch.Generator().manual_seed(1)
    weights = torch.randn(count, len(embeddings), generator=generator)
    lines = torch.nn.functional.normalize(weights @ (embeddings - embeddings.mean(dim=0)), dim=1)
    moved = lines[:, None].expand(-1, 3, -1)
    found = name_displacements(list(range(count)), moved, directions, embeddings, generator)
    p = torch.tensor([each.p for each in found]).sort().values
    away = (p - (torch.arange(count) + 0.5) / count).abs().max()
    assert away < 1.63 / count**0.5  # Kolmogorov and Smirnov at 1 %
    assert not [each for each in found if each.verdict == "named" and each.p > 0.05 / count]


def test_a_score_counts_by_what_chance_scores_for_its_factor():
    """Chance reaches .9 for the first factor and .5 for the second, where .6 is rare."""
    steps = torch.arange(1, 1000) / 1000
    null = torch.stack([0.9 * steps, 0.5 * steps], dim=1)
    scores = torch.tensor([[0.6, 0.0], [0.0, 0.6], [0.95, 0.94]])
    p = judge_scores(scores, null)
    assert p[0] == pytest.approx(1 / 3, abs=0.01) and p[1] == p[2] == 1 / 1000


def test_random_directions_have_the_datas_covariance(directions, embeddings):
    flat = embeddings.clone()
    flat[:, 2] = flat[:, 2].mean()  # images never differ in size: no random direction does
    scores = null_scores(directions, flat, torch.Generator().manual_seed(0), 2000)
    assert scores.shape == (2000, 3) and 0 < scores.amax(dim=1).min() and scores.max() <= 1
    only = directions.contrasts[3:4]
    directions.contrasts, directions.factor, directions.factors = only, torch.zeros(1).long(), ["size"]
    assert null_scores(directions, flat, torch.Generator().manual_seed(0), 200).max() < 1e-3


def test_holm_by_hand():
    p = torch.tensor([0.04, 0.01, 0.03, 0.5])
    torch.testing.assert_close(correct_holm(p), torch.tensor([0.09, 0.04, 0.09, 0.5]))
    assert correct_holm(torch.tensor([])).shape == (0,)
    assert correct_holm(torch.tensor([0.6, 0.7])).max() == 1


def test_without_prompts_units_of_one_line_come_together(directions, embeddings):
    size, sky = directions.contrasts[3], directions.contrasts[4]
    lines = [move(size, embeddings), move(sky, embeddings, 0.9), move(-size, embeddings, 0.8)]
    lines.append(move(size, embeddings, 0.01))
    lines[1][7] *= 3
    findings, groups = group_units([4, 5, 6, 7], torch.stack(lines), embeddings, num_exemplars=2)
    assert [group["units"] for group in groups] == [[5], [6, 4]]
    assert groups[0]["exemplars"][0] == 7 and len(groups[0]["exemplars"]) == 2
    assert [each.verdict for each in findings] == ["not named"] * 3 + ["no effect"]
    assert all(each.name is None for each in findings)


def test_groups_of_one_unit_and_of_none(embeddings):
    moved = move(torch.eye(12)[0], embeddings)[None]
    assert group_units([0], moved, embeddings, 1)[1][0]["units"] == [0]
    assert group_units([0], 0 * moved, embeddings, 1)[1] == []


def test_names_are_right_where_labels_say_so():
    findings = [
        Finding(0, "named", 1.0, name="wall"),
        Finding(1, "named", 1.0, name="size"),
        Finding(2, "named", 1.0, name="wall"),
        Finding(3, "not named", 1.0, name="sky"),
    ]
    importance = np.array([[0.9, 0.0, 0.1], [0.1, 0.8, 0.0], [0.0, 0.3, 0.2], [0.0, 0.0, 0.9]])
    judged = judge_names(findings, importance, ["wall", "scale", "sky"], {"size": "scale"})
    assert judged["factors_right"] == ["wall", "scale"] and judged["num_factors_right"] == 2
    assert set(judged["units_right"]) == {0, 1}
    assert judged["units_wrong"] == {2: {"name": "wall", "peak": "scale"}}
