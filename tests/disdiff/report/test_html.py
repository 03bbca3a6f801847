import base64
import io
import json
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from disdiff.report.elements import TEMPLATES
from disdiff.report.html import write_report
from ldm.errors import UserError

VOID = {"meta", "img", "br", "input", "link", "wbr"}


class Checker(HTMLParser):
    """Collects text and image sources; fails on tags that do not match."""

    def __init__(self, page):
        super().__init__()
        self.open, self.texts, self.images, self.tags, self.labels = [], [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.labels += [value for key, value in attributes if key == "aria-label"]
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
        """As a browser shows it: any white space is one space."""
        return " ".join(" ".join(self.texts).split())


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
    assert "Unit 1 encodes wall <hue> (importance 1.00) and scale (importance 0.90)." in page.text
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


def test_report_is_one_file_that_needs_no_other(full_run_folder):
    path = write_report(full_run_folder)
    page, text = read(path), path.read_text()
    assert len(page.images) == 9
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.images)
    assert "http" not in text and "src=" not in text.replace('src="data:', "")
    assert text.count("url(") == text.count('url("data:image/jpeg;base64,') == 1
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert path.stat().st_size < 10_000_000


def test_every_figure_says_what_it_shows(full_run_folder):
    text = read(write_report(full_run_folder)).text
    for sentence in (
        "Most concentrated: wall <hue>, with 100% of its importance in unit 1.",
        "Widest gap: wall <hue>, 1.10 nats between unit 1 and the next. Narrowest: scale, 0.50 nats.",
        "2 of 2 units got votes. Clearest: wall <hue>, with 98% of its votes for unit 1.",
        "The loss changed from 0.5 at step 10 to 0.4 at step 20.",
        "autoencoder alone 29.0 dB; code and inferred noise 25.5 dB",
        "62.3% of the codebook's vectors occur in the evaluation images. The perplexity is 812",
    ):
        assert sentence in text, sentence


def test_sliders_start_at_the_mean_and_carry_the_names_of_their_units(full_run_folder):
    page = read(write_report(full_run_folder))
    assert page.texts.count("mean") == 2 and "in 2 images" in page.text
    assert "unit 1 · wall <hue> 1.00, scale 0.90" in page.texts
    text = (full_run_folder / "report.html").read_text()
    assert 'data-amounts="-1.5 std|mean|+1.5 std"' in text and "background-position: 50.000% 100.000%" in text


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
    assert "Codebook" not in page.text


def test_report_can_go_elsewhere(run_folder, tmp_path):
    out = write_report(run_folder, tmp_path / "elsewhere" / "page.html")
    assert out.exists() and not (run_folder / "report.html").exists()


def test_bad_folders_are_named(tmp_path, run_folder):
    with pytest.raises(UserError, match="no metrics.json"):
        write_report(tmp_path / "nothing")
    (run_folder / "codes.npz").write_bytes((run_folder / "codes.npz").read_bytes()[:100])
    with pytest.raises(UserError, match="codes.npz is damaged"):
        write_report(run_folder)


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"units": [0], "amounts": [0], "num_images": 1, "sheet": "<"}']
)
def test_damaged_frames_are_named(run_folder, content):
    (run_folder / "frames.json").write_text(content)
    with pytest.raises(UserError, match="frames.json is damaged"):
        write_report(run_folder)


def test_tables_escape_text_round_numbers_and_break_long_names():
    table = TEMPLATES.get_template("elements.html").module.table
    page = Checker(table(["<x>"], [["<i>", 0.12345, "sklearn.GradientBoosting<b>"]], "a<b"))
    assert page.text.split() == ["a<b", "<x>", "<i>", "0.123", "sklearn.", "GradientBoosting<b>"]
    assert "<wbr>" in table([], [["sklearn.Gradient"]]) and "<caption>" not in table([], [])


HOSTILE = ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "</style></title><b>&lt;"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(full_run_folder, edit_metrics, codes, name):
    tame = Counter(read(write_report(full_run_folder)).tags)
    edit_metrics(
        **{key: name for key in ("system", "preset", "device", "commit", "supervision")},
        dataset={"name": name},
        versions={name: name},
        stages={name: {"steps": 1}},
    )
    text = (full_run_folder / "metrics.json").read_text().replace("wall <hue>", json.dumps(name)[1:-1])
    (full_run_folder / "metrics.json").write_text(text)
    np.savez(full_run_folder / "codes.npz", **{**codes, "factor_names": np.array([name, "scale"])})
    (full_run_folder / "config.yaml").write_text(name)
    page = read(write_report(full_run_folder))
    assert f"{name} on {name}" in page.texts and f"Supervision: {name}. The" in page.text
    assert f"unit 1 · {name} 1.00, scale 0.90" in page.texts
    assert page.labels == [
        f"images while {label} moves" for label in page.texts if label.startswith("unit 1 ·")
    ] + [page.labels[1]]
    assert Counter(page.tags) == tame  # one notice goes, that of procedural data; one comes, of supervision


@pytest.fixture
def hundreds(full_run_folder, codes, edit_metrics):
    """The run with 512 units, of which units 1 and 0 matter most, and pictures of noise, 34 rows high."""
    random = np.random.default_rng(0)
    importance = 0.001 * random.random((512, 2))
    importance[:2] = [[0.3, 0.1], [0.6, 0.7]]
    scores = {
        "dci": {"importance": importance.tolist()},
        "factor_vae": {"votes": random.integers(0, 9, (512, 2)).tolist()},
        "mig": {"mutual_information": random.random((512, 2)).tolist()},
    }
    edit_metrics(scores={"paper": scores})
    np.savez(full_run_folder / "codes.npz", **{**codes, "codes": random.normal(size=(60, 512, 1))})
    noise = np.kron(random.integers(0, 256, (2_250, 650, 3), dtype=np.uint8), np.ones((2, 2, 1), np.uint8))
    for name in ("swap", "traversal", "fields"):
        Image.fromarray(noise).save(full_run_folder / f"{name}.png", compress_level=1)
    return full_run_folder


def test_of_hundreds_of_units_the_most_important_are_shown_and_the_page_stays_small(hundreds):
    path = write_report(hundreds)
    page = read(path)
    assert page.text.count("shows the 32 of 512 units with the highest importance.") == 4
    assert page.text.index("Unit 1 encodes") < page.text.index("Unit 0 encodes")
    assert page.text.count("encodes no factor.") == 30
    heights = {image["alt"]: Image.open(decode(image["src"])).size[1] for image in page.images}
    assert heights["Importance (DCI)"] < 3_000
    assert path.stat().st_size < 10_000_000


def decode(source):
    return io.BytesIO(base64.b64decode(source.split(",", 1)[1]))
