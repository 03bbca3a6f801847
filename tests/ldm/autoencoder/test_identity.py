import torch

from ldm.autoencoder.identity import IdentityAutoencoder
from ldm.autoencoder.latent_space import LatentSpace


def test_pixel_space_costs_nothing():
    model = IdentityAutoencoder(in_channels=1)
    image = torch.rand(2, 1, 8, 8)
    assert model.encode(image) is image and model.decode(image, quantize=False) is image
    assert not list(model.parameters()) and model.last_layer is None
    assert LatentSpace(model).latent_shape(8) == (1, 8, 8)


def test_reconstruction_is_perfect_and_unregularised():
    image = torch.rand(2, 3, 8, 8)
    result = IdentityAutoencoder().reconstruct(image)
    assert result.image_hat is image and result.regulariser == 0 and result.stats == {}
