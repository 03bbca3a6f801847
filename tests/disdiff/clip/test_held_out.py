import pytest
import torch

from disdiff.clip.held_out import keep_held_out
from disdiff.clip.tower import ClipDescription
from ldm.data.source import split_indices
from ldm.errors import UserError


def description(**record):
    return ClipDescription(
        "tiny", "tiny", "file", "abc", {"identity": "halves-1", "num_train": 100, **record}
    )


def test_images_that_the_clip_was_trained_on_are_left_out(halves):
    train, rest = split_indices(halves, 100, 140)
    index = torch.arange(len(halves))
    kept = keep_held_out(index, halves, description())
    assert set(kept.tolist()) == set(rest.tolist()) and not set(kept.tolist()) & set(train.tolist())
    assert torch.equal(keep_held_out(index, halves, description(identity="elsewhere")), index)
    assert torch.equal(keep_held_out(index, halves, ClipDescription("open", "open", "tag", "abc")), index)


def test_when_none_is_left_it_says_so(halves):
    with pytest.raises(UserError, match="every evaluation image; train one on fewer"):
        keep_held_out(split_indices(halves, 50, 0)[0], halves, description())
