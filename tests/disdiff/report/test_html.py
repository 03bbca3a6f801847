import json
from html.parser import HTMLParser

import pytest
import torch

from disdiff.report.grids import save_grid
from disdiff.report.html import write_report, write_table
from ldm.errors import UserError

VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Collects text and image sources; fails on tags that do not match."""

    def __init__(self, page):
        super().__init__()
        self.open, self.texts, self.images = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)


@pytest.fixture
def edit_metrics(run_folder):
    def edit(**changes):
        path = run_folder / "metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def read(path):
    return Checker(path.read_text())


def test_report_says_what_was_found_and_how_it_was_measured(run_folder):
    page = read(write_report(run_folder))
    assert "disdiff on shapes3d (procedural)" in page.text and run_folder.name in page.text
    assert "The data are procedural" in page.text
    assert "Unit 1 carries wall <hue> (importance 1.00) and scale (importance 0.90)." in page.text
    assert "Protocol: paper" in page.text and "trees; 10,000 train" in page.text
    for number in ("0.87", "0.432", "65 %", "25.5 dB", "0.88 (scale)", "15 min"):
        assert number in page.text, number
    assert "name: <none>" in page.text and "2.15.0" in page.text and "0123456789ab" in page.text
    assert [image["alt"] for image in page.images] == [
        "Importance (DCI)",
        "Mutual information (MIG)",
        "Votes (FactorVAE)",
        "Training of the last stage",
    ]


def test_report_is_one_file_that_needs_no_other(run_folder):
    for name in ("swap", "traversal", "reconstruction", "samples"):
        save_grid(run_folder / f"{name}.png", torch.rand(2, 3, 3, 16, 16), name)
    path = write_report(run_folder)
    page, text = read(path), path.read_text()
    assert len(page.images) == 8
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.images)
    assert "http" not in text and "<script" not in text and "<link" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert path.stat().st_size < 10_000_000


def test_missing_parts_are_left_out(run_folder, edit_metrics):
    for name in ("codes.npz", "log.csv", "config.yaml"):
        (run_folder / name).unlink()
    edit_metrics(scores=None, scores_reason="celeba has no factor labels", editing=None, reconstruction=None)
    page = read(write_report(run_folder))
    assert "No scores: celeba has no factor labels." in page.text and page.images == []


def test_logs_of_stages_come_before_the_run_s_own(run_folder):
    (run_folder / "stages" / "latent_diffusion").mkdir(parents=True)
    (run_folder / "log.csv").rename(run_folder / "stages" / "latent_diffusion" / "log.csv")
    page = read(write_report(run_folder))
    assert page.images[-1]["alt"] == "Training of latent diffusion"


def test_report_can_go_elsewhere(run_folder, tmp_path):
    out = write_report(run_folder, tmp_path / "elsewhere" / "page.html")
    assert out.exists() and not (run_folder / "report.html").exists()


def test_bad_folders_are_named(tmp_path, run_folder):
    with pytest.raises(UserError, match="no metrics.json"):
        write_report(tmp_path / "nothing")
    (run_folder / "codes.npz").write_bytes((run_folder / "codes.npz").read_bytes()[:100])
    with pytest.raises(UserError, match="codes.npz is damaged"):
        write_report(run_folder)


def test_tables_escape_text_and_round_numbers():
    assert write_table("a<b", ["x"], [["<i>", 0.12345]]).count("&lt;") == 2
    assert "0.123" in write_table("", ["x"], [[0.12345]])
