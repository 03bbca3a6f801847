"""Where configurations, shipped models and the entry point lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS, PRETRAINED, ENTRY = ROOT / "configs", ROOT / "pretrained", ROOT / "main.py"
