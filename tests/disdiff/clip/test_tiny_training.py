import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss

from disdiff.clip.captions import group_values
from disdiff.clip.tiny import build_tiny_clip
from disdiff.clip.tiny_training import (
    PROMPTS,
    TinyTraining,
    contrastive_loss,
    train_tiny_clip,
    zero_shot_accuracy,
)
from ldm.data.shapes3d import SHAPES3D


class Coloured:
    """Images 64x64 whose halves show the floor's and the wall's hue as grey values."""

    factor_space = SHAPES3D

    def __len__(self):
        return len(SHAPES3D)

    def factors(self, index):
        return SHAPES3D.factors(index)

    def images(self, index):
        grey = (25 * self.factors(index)[:, :2]).to(torch.uint8)
        return grey[:, None, :, None].repeat_interleave(32, dim=2).expand(-1, 3, -1, 64)


def draw(*shape):
    return F.normalize(
        torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[0])), dim=1
    )


def test_with_one_caption_per_image_it_is_the_loss_of_clip():
    image, text, scale = draw(8, 5), draw(8, 5).flip(0), torch.tensor(7.0)
    found = contrastive_loss(image, text, scale, torch.eye(8, dtype=torch.bool))
    torch.testing.assert_close(found, ClipLoss()(image, text, scale))


def test_a_caption_that_fits_two_images_may_lie_by_both():
    text = torch.eye(3)[[0, 0, 1]]
    match = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    scale = torch.tensor(40.0)
    known = contrastive_loss(text, text, scale, match)
    unknown = contrastive_loss(text, text, scale, torch.eye(3, dtype=torch.bool))
    torch.testing.assert_close(known, 2 / 3 * torch.tensor(2.0).log(), atol=1e-4, rtol=0)  # the entropy left
    torch.testing.assert_close(known, unknown, atol=1e-4, rtol=0)
    apart = contrastive_loss(torch.eye(3), text, scale, match)
    assert apart > known + 5  # to tell the two images apart is a mistake


def test_training_lowers_the_loss_by_the_seed_and_ends_in_time():
    index = torch.arange(0, 480_000, 997)

    def train(**options):
        torch.manual_seed(0)
        net, tokenizer = build_tiny_clip()
        losses = []

        def progress(step, loss):
            losses.append(loss)
            return step / 3 if options.get("num_steps") == 50 else 0.0

        training = TinyTraining(**{"num_steps": 6, "batch_size": 8, "learning_rate": 5e-4, **options})
        return train_tiny_clip(
            net, tokenizer, torch.nn.Identity(), Coloured(), index, training, progress
        ), losses

    steps, losses = train()
    assert steps == 6 and min(losses[2:]) < losses[0]
    assert train()[1] == losses != train(seed=1)[1]
    assert train(num_steps=50)[0] == 3  # the time is up


def test_zero_shot_accuracy_of_one_who_knows_and_of_one_who_does_not():
    _, tokenizer = build_tiny_clip()
    index = torch.randperm(480_000, generator=torch.Generator().manual_seed(0))[:250]
    words = {
        tuple(tokenizer([prompt.format(word)])[0].tolist()): (f, v)
        for f, (prompt, values) in enumerate(PROMPTS.values())
        for v, group in enumerate(values)
        for word in group
    }  # the texts of two factors differ
    seen = group_values(SHAPES3D.factors(index))

    class Oracle(torch.nn.Module):
        def encode_image(self, image, normalize):
            return F.one_hot(seen, 10).float().flatten(1)

        def encode_text(self, tokens, normalize):
            rows = torch.zeros(len(tokens), 6, 10)
            for row, token in zip(rows, tokens, strict=True):
                f, v = words[tuple(token.tolist())]
                row[f, v] = 1
            return rows.flatten(1)

    scores = zero_shot_accuracy(Oracle(), tokenizer, torch.nn.Identity(), Coloured(), index)
    assert list(scores) == [*list(PROMPTS)[:5], "orientation (5 words)"]
    assert all(value == pytest.approx(1.0) for value in scores.values())
