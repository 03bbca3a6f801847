"""Images, autoencoders and diffusion: what `disdiff` stands on. Other projects have a package of this name."""

PROJECT = "disdiff"
