import base64
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from disdiff.report.elements import TEMPLATES
from disdiff.report.html import write_report
from ldm.errors import UserError

VOID = {"meta", "img", "br", "input", "link", "wbr"}
INLINE = {"b", "span", "code"}


class Page(HTMLParser):
    """A page taken apart; fails on tags that do not match.

    Attributes:
        elements: (tag, attributes, text as a browser shows it) of every element, in the order of their ends.
        texts: pieces of text, in order.
    """

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag in VOID:
            self.elements.append((tag, dict(attributes), ""))
        else:
            self.open.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        opened, attributes, texts = self.open.pop()
        assert opened == tag
        self.elements.append((tag, attributes, " ".join("".join(texts).split())))
        if self.open:
            self.open[-1][2].extend(["" if tag in INLINE else " ", *texts])

    def handle_data(self, data):
        self.texts.append(data)
        self.open[-1][2].append(data) if self.open else None

    def find(self, *tags, **wanted):
        """Texts of the elements of these tags that have these attributes (`class_` for `class`)."""
        wanted = {key.rstrip("_"): value for key, value in wanted.items()}
        return [text for tag, given, text in self.elements if tag in tags and wanted.items() <= given.items()]

    def attributes(self, *tags):
        return [attributes for tag, attributes, _ in self.elements if tag in tags]

    @property
    def tags(self):
        return Counter(tag for tag, _, _ in self.elements)

    @property
    def tables(self):
        """Rows of every table by its caption, or its first head where it has none."""
        tables, rows, name = {}, [], None
        for tag, _, text in self.elements:
            if tag in ("caption", "th"):
                name = name or text
            if tag == "td":
                rows[-1].append(text)
            if tag in ("thead", "tr"):
                rows.append([])
            if tag == "table":
                tables[name], rows, name = [row for row in rows if row], [], None
        return tables

    @property
    def captions(self):
        """The caption of every figure by the name of its picture, "" where there is none."""
        captions, name = {}, None
        for tag, attributes, text in self.elements:
            if tag == "img":
                name = attributes["alt"]
                captions[name] = ""
            if tag == "figcaption":
                captions[name] = text
        return captions


def numbers_in(text):
    return [float(number.replace(",", "")) for number in re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)]


@pytest.fixture
def edit_metrics(run_folder):
    def edit(**changes):
        path = run_folder / "metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def read(path):
    return Page(path.read_text())


def test_report_says_what_was_found_and_how_it_was_measured(run_folder):
    page = read(write_report(run_folder))
    assert {"disdiff", "shapes3d", "(procedural)"} <= set(page.find("h1")[0].split())
    assert page.find("p", class_="faint")[0] == run_folder.name
    assert "small" in page.find("p", class_="faint")[1] and "15 min" in page.find("p", class_="faint")[1]
    assert [numbers_in(value)[0] for value in page.find("b")] == [0.87, 0.43, 65, 92, 25.5]
    table = {row[0]: row[1:] for row in page.tables["Protocol: paper"]}
    assert {name: cells[0] for name, cells in table.items()} == {
        "FactorVAE score": "0.870",
        **{"DCI disentanglement": "0.432", "DCI completeness": "0.500", "DCI informativeness": "0.750"},
        "MIG": "0.300",
    }
    assert {cells[1] for name, cells in table.items() if name[:3] == "DCI"} == {"trees; 10,000 train"}
    edits, lenient = (rows for name, rows in page.tables.items() if name.startswith("Edits"))
    assert edits == [
        ["wall <hue>", "unit 1", "0.900", "0.96 (units 1, 2)", "0.88 (scale)", "1.000", "1.000", "1.000"],
        ["scale", "unit 0", "0.400", "", "0.97 (wall <hue>)", "0.950", "0.995", "0.990"],
    ]
    assert [row[2] for row in lenient] == ["1.000", "0.500"]
    made = [row[1:] for row in page.tables["Reconstruction"]]
    assert [numbers_in(psnr) for psnr, *_ in made] == [[29.0], [25.5], [20.0]]
    assert {tuple(rest) for _, *rest in made} == {("0.900", "0.250")}
    (controls,) = (rows for name, rows in page.tables.items() if name.startswith("Controls"))
    assert controls == [
        ["this run, trained", "", "0.860", "0.440"],
        ["PCA <of latents>", "", "0.600", "0.500"],
    ]
    (said,) = (text for text in page.find("p") if "best control" in text)
    assert (
        "in FactorVAE training beat it by 0.260" in said
        and "in DCI training fell short of it by 0.060" in said
    )
    environment = dict(page.tables["what"])
    assert environment["versions"] == "torch 2.15.0" and environment["commit"] == "0123456789ab"
    assert page.find("pre") == ["seed: 0 name: <none>"]
    assert list(page.captions) == [
        "Importance (DCI)",
        "Mutual information (MIG)",
        "Votes (FactorVAE)",
        "Training of the last stage",
    ]


def test_each_unit_is_listed_with_the_factors_that_it_carries(run_folder):
    first, second = read(write_report(run_folder)).find("li")
    assert numbers_in(first) == [1, 1.00, 0.90] and first.index("wall <hue>") < first.index("scale")
    assert numbers_in(second) == [0, 0.10] and "scale" in second and "wall" not in second


def test_what_an_earlier_version_did_not_measure_is_said(run_folder, edit_metrics):
    metrics = json.loads((run_folder / "metrics.json").read_text())
    editing, made = metrics["editing"], metrics["reconstruction"]
    for key in ("probe", "with_reconstructions", "probe_accuracy_originals"):
        del editing[key]
    edit_metrics(
        controls=None,
        editing=editing,
        reconstruction={key: value for key, value in made.items() if key.endswith("psnr")},
    )
    page = read(write_report(run_folder))
    assert sum("not measured" in text for text in page.find("p")) == 2  # controls, and the probe of originals
    (edits,) = (rows for name, rows in page.tables.items() if name.startswith("Edits"))
    assert edits[0][2] == "0.900" and edits[0][6] == "not measured"
    assert page.tables["Reconstruction"][0][1:] == ["29.0 dB", "not measured", "not measured"]
    assert sum("lenient probe" in text for text in page.find("span")) == 2


@pytest.mark.parametrize(("procedural", "notices"), [(True, 1), (False, 0)])
def test_only_procedural_data_have_a_notice(run_folder, edit_metrics, procedural, notices):
    edit_metrics(dataset={"name": "shapes3d", "procedural": procedural, "num_images": 480_000})
    page = read(write_report(run_folder))
    assert len(page.find("p", class_="notice")) == notices
    assert ("(procedural)" in page.find("h1")[0]) == procedural


def test_report_is_one_file_that_needs_no_other(full_run_folder):
    path = write_report(full_run_folder)
    page, text = read(path), path.read_text()
    images = page.attributes("img")
    assert len(images) == 9
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in images)
    assert "http" not in text and "src=" not in text.replace('src="data:', "")
    assert text.count("url(") == text.count('url("data:image/jpeg;base64,') == 1
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert path.stat().st_size < 10_000_000


def test_every_figure_says_what_it_shows(full_run_folder):
    """The factor, the unit and the values of each caption, which follow from the scores and the log."""
    page = read(write_report(full_run_folder))
    for name, factors, values in (
        ("Importance (DCI)", ["wall <hue>", "scale"], [100, 1, 90, 1]),
        ("Mutual information (MIG)", ["wall <hue>", "scale"], [1.10, 1, 0.50]),
        ("Votes (FactorVAE)", ["wall <hue>", "scale"], [2, 2, 98, 1, 95]),
        ("Training of the last stage", [], [0.5, 10, 0.4, 20]),
        ("Reconstructions", [], [29.0, 25.5, 20.0]),
    ):
        caption = page.captions[name]
        assert numbers_in(caption) == values, name
        places = [caption.index(factor) for factor in factors]
        assert places == sorted(places), name
    assert [value for _, value in page.tables["codebook"]] == ["62.3%", "812"]


def test_sliders_start_at_the_mean_and_carry_the_names_of_their_units(full_run_folder):
    page = read(write_report(full_run_folder))
    assert page.find("output") == ["mean", "mean"]
    assert page.find("label") == ["unit 1 · wall <hue> 1.00, scale 0.90", "unit 0 · scale 0.10"]
    sliders = page.attributes("input")
    assert [(slider["min"], slider["max"], slider["value"]) for slider in sliders] == [("0", "2", "1")] * 2
    assert {slider["data-amounts"] for slider in sliders} == {"-1.5 std|mean|+1.5 std"}
    assert {slider["aria-valuetext"] for slider in sliders} == {"mean"}
    frames = [each["style"] for each in page.attributes("div") if each.get("class") == "frame"]
    assert [numbers_in(frame) for frame in frames] == [[50, 0], [50, 100]]


def test_missing_parts_are_left_out(run_folder, edit_metrics):
    for name in ("codes.npz", "log.csv", "config.yaml"):
        (run_folder / name).unlink()
    edit_metrics(
        **dict.fromkeys(("scores", "controls", "editing", "reconstruction")),
        scores_reason="celeba has no factor labels",
    )
    page = read(write_report(run_folder))
    assert any("celeba has no factor labels" in text for text in page.find("p")) and not page.attributes(
        "img"
    )
    assert list(page.tables) == ["what"]


def test_logs_of_stages_come_before_the_run_s_own(run_folder):
    (run_folder / "stages" / "latent_diffusion").mkdir(parents=True)
    (run_folder / "log.csv").rename(run_folder / "stages" / "latent_diffusion" / "log.csv")
    page = read(write_report(run_folder))
    assert list(page.captions)[-1] == "Training of latent diffusion"
    assert "codebook" not in page.tables


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
    page = Page(table(["<x>"], [["<i>", 0.12345, "sklearn.GradientBoosting<b>"]], "a<b"))
    assert page.tables == {"a<b": [["<i>", "0.123", "sklearn.GradientBoosting<b>"]]}
    assert page.find("th") == ["<x>"] and page.find("td", class_="number") == ["0.123"]
    assert "<wbr>" in table([], [["sklearn.Gradient"]]) and "<caption>" not in table([], [])


HOSTILE = ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "</style></title><b>&lt;"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(full_run_folder, edit_metrics, codes, name):
    tame = read(write_report(full_run_folder)).tags
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
    assert page.find("h1") == [f"{name} on {name}"] and name in page.find("p", class_="notice")[0]
    assert page.find("label")[0] == f"unit 1 · {name} 1.00, scale 0.90"
    spoken = [each["aria-label"] for each in page.attributes("div") if "aria-label" in each]
    assert all(label in said for label, said in zip(page.find("label"), spoken, strict=True))
    assert page.tags == tame  # one notice goes, that of procedural data; one comes, of supervision


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
    assert sum(numbers_in(text)[:2] == [32, 512] for text in page.find("p", "figcaption")) == 4
    units = [numbers_in(item)[0] for item in page.find("li")]
    assert units[:2] == [1, 0] and len(units) == len(set(units)) == 32
    assert [len(numbers_in(item)) for item in page.find("li")] == [3, 2] + [1] * 30
    images = page.attributes("img")
    heights = {image["alt"]: Image.open(decode(image["src"])).size[1] for image in images}
    assert heights["Importance (DCI)"] < 3_000
    assert path.stat().st_size < 10_000_000


def decode(source):
    return io.BytesIO(base64.b64decode(source.split(",", 1)[1]))
