"""What is scored follows from the labels a data set has: factors, attributes, or none."""

import numpy as np
import pytest
import torch

from disdiff.runs.results import encode_codes, name_scores, score_codes, summarise
from ldm.data.source import describe_source


class Labelled:
    """A source of 40 images 16x16 with two attributes and no factors."""

    name, procedural, identity, image_size, channels = "faces", False, "faces-1", 16, 3
    factor_space, attribute_names, skipped = None, ("glasses", "hat"), ("a.png",)
    preparation = "crop center"

    def __len__(self):
        return 40

    def images(self, index):
        return (index * 5).to(torch.uint8)[:, None, None, None].repeat(1, 3, 16, 16)

    def factors(self, index):
        return torch.empty(len(index), 0, dtype=torch.int64)

    def attributes(self, index):
        return torch.stack([index % 2, index // 20], dim=1)


def test_attributes_come_out_in_the_codes(model):
    index = torch.tensor([39, 0, 21])
    arrays = encode_codes(model, Labelled(), index)
    assert arrays["codes"].shape == (3, 3, 2) and "factors" not in arrays
    assert arrays["attributes"].tolist() == [[1, 1], [0, 0], [1, 1]]
    assert arrays["attribute_names"].tolist() == ["glasses", "hat"]


def test_a_data_set_is_described_by_what_applies_to_it(halves):
    assert describe_source(halves) == {"name": "halves", "procedural": True, "num_images": 240}
    assert describe_source(Labelled()) == {
        "name": "faces",
        "procedural": False,
        "num_images": 40,
        "preparation": "crop center",
        "attribute_names": ["glasses", "hat"],
        "skipped": ["a.png"],
    }


def test_the_name_of_scores_says_how_few_images_were_drawn():
    codes = np.zeros((400, 3))
    assert name_scores("fast", {"codes": codes, "factors": codes}) == "fast, with replacement from 400 images"
    assert name_scores("fast", {"codes": codes, "attributes": codes}) == "fast"
    assert name_scores("fast", {"codes": np.zeros((2_000, 3)), "factors": codes}) == "fast"


@pytest.fixture
def arrays():
    """Codes of which number 1 is attribute 0 and number 2 attribute 1."""
    rng = np.random.default_rng(0)
    attributes = rng.integers(0, 2, (1600, 2))
    codes = rng.normal(size=(1600, 4, 1)).astype(np.float32)
    codes[:, 1:3, 0] += 6 * attributes
    return {"codes": codes, "attributes": attributes, "attribute_names": np.array(["a", "b"])}


def test_attributes_alone_give_tad_and_say_what_is_left_out(arrays):
    scores, reason = score_codes(arrays, "fast", 0)
    assert scores["tad"]["score"] > 0.8 and scores["tad"]["num_captured"] == 2
    assert (
        "factor_vae" not in scores
        and "no factor labels, which FactorVAE, DCI and similar scores need" in reason
    )
    metrics = {
        "scores": {"fast": scores}, "scores_reason": reason, "editing": None, "seconds_total": 60,
        "reconstruction": {"psnr": 20.0}, "dataset": {"name": "faces", "procedural": False},
    }  # fmt: skip
    said = summarise(metrics)
    assert "TAD" in said and "2 attributes captured (fast)" in said and reason in said


def test_no_labels_or_too_few_give_a_reason_instead(arrays):
    assert score_codes({"codes": arrays["codes"]}, "fast", 0) == (
        None,
        "the data set has no factor labels and no attributes, which scores need",
    )
    few = {name: array[:30] for name, array in arrays.items() if name != "attribute_names"}
    scores, reason = score_codes(few, "fast", 0)
    assert scores is None and "30" in reason
