"""Images, autoencoders and diffusion, on which `disdiff` stands; other projects have a package `ldm` too."""

PROJECT = "disdiff"
