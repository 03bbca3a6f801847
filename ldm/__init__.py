"""Latent diffusion: data, autoencoders, denoiser, samplers and training; `disdiff` is built on this package.

Other projects install a package named `ldm` too, so the two cannot share an environment.
"""

PROJECT = "disdiff"
