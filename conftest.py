"""Tests, and the scripts that they start, compute with one thread, which a busy machine slows down least."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is imported
