import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from disdiff.report.comparison import Column, Comparison, RunRecord, Value, pool_values
from disdiff.report.comparison_page import WIDTH, count_systems, describe_lead, plot_values, save_comparison

ROW = "FactorVAE score"


@pytest.fixture
def build(tmp_path):
    """Return a function that gives a table of systems with values of one row, a run each."""

    def column(title, values, supervision=""):
        runs = []
        for seed, value in enumerate(values):
            folder = tmp_path / f"{title}-s{seed}"
            folder.mkdir(exist_ok=True)
            facts = {"finished": "2026-11-22T20:00:00+00:00", "device": "a CPU", "commit": "abc"}
            runs.append(
                RunRecord(
                    folder, folder, title, "small", seed, "shapes3d", True, "", (), {ROW: value}, facts, "",
                    supervision,
                )
            )  # fmt: skip
        return Column(title, "small", tuple(runs), pool_values([run.values for run in runs]))

    def table(published=None, **systems):
        columns = [column(title, values) for title, values in systems.items()]
        if published is not None:
            columns.append(Column("theirs, published", "", (), {ROW: Value(published, None, 0)}))
        return Comparison("shapes3d (procedural)", "paper", [ROW], columns)

    table.column = column
    return table


def test_the_page_holds_everything_itself(build, tmp_path):
    table = build(ours=[0.5, 0.6], theirs=[0.4])
    picture = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    for name in ("swap", "traversal"):
        Image.fromarray(picture).save(tmp_path / "ours-s0" / f"{name}.png")
    (tmp_path / "ours-s0" / "report.html").touch()
    page = save_comparison(tmp_path / "out", table, {tmp_path / "ours-s1": "python <one>"}, {"bad": "a < b"})
    text = page.read_text()
    assert "procedural" in text and "0.550 ± 0.050" in text and "<li>bad: a &lt; b</li>" in text
    assert not re.search(r'(src|href)="(?!data:|\.\./ours-s0/report\.html)', text)
    assert 'href="../ours-s0/report.html"' in text
    thumbnails = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    sizes = [Image.open(io.BytesIO(base64.b64decode(data))).size for data in thumbnails]
    assert sizes == [(WIDTH, WIDTH * 3 // 4)] * 2  # of the system that has pictures
    assert "python &lt;one&gt;" in text
    assert f"disdiff train --base {tmp_path / 'ours-s0' / 'config.yaml'}" in text
    assert text.count("2026-11-22T20:00:00+00:00") == 3


@pytest.mark.parametrize(
    ("systems", "says"),
    [
        ({"a": [0.5, 0.52], "b": [0.8, 0.82]}, "highest b 0.810 ± 0.010 (n=2), then a 0.510 ± 0.010 (n=2)"),
        ({"a": [0.5, 0.52], "b": [0.8, 0.82]}, "differ by 0.300, more than the larger of their standard"),
        ({"a": [0.5, 0.9], "b": [0.8, 0.82]}, "differ by 0.110, within the larger of their standard"),
        ({"a": [0.5, 0.52], "b": [0.8]}, "but one of them has a single seed, so the difference is uncertain"),
    ],
)
def test_the_lead_is_told_with_what_it_is_worth(build, systems, says):
    assert says in describe_lead(build(**systems), ROW)


def test_published_and_supervised_systems_are_not_ranked(build):
    table = build(published=0.99, a=[0.5], b=[0.6])
    table.columns.append(build.column("guided", [0.95], "weakly supervised"))
    assert describe_lead(table, ROW).startswith(f"{ROW}: highest b 0.600 (n=1), then a 0.500")
    assert describe_lead(build(a=[0.5]), ROW) == ""


def test_every_seed_has_a_dot_and_every_system_a_bar_at_its_mean(build):
    (axes,) = plot_values(build(published=0.7, a=[0.2, 0.4], b=[0.6]), [ROW]).axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.3, 0.6])
    marks = {line.get_marker(): line.get_xdata() for line in axes.lines}
    assert list(axes.lines[0].get_xdata()) == [0.2, 0.4] and list(marks["D"]) == [0.7]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "theirs, published"]
    assert axes.get_xlim() == (0, 1)


@pytest.mark.parametrize("name", ["<script>alert(1)<|script>", "\"'><img src=x onerror=alert(1)>", "<b>&lt;"])
def test_hostile_names_stay_text(build, tmp_path, name):
    table = build(**{name: [0.5, 0.6]}, theirs=[0.4])
    table = replace(table, data=f"data {name}", rows=[ROW, name])
    (tmp_path / f"{name}-s0" / "report.html").touch()
    Image.new("RGB", (4, 4)).save(tmp_path / f"{name}-s0" / "swap.png")
    text = save_comparison(tmp_path / "out", table, {}, {name: name}).read_text()
    parser, tags, links, texts = HTMLParser(), [], [], []
    parser.handle_starttag = lambda tag, given: (tags.append(tag), links.append(dict(given).get("href")))
    parser.handle_data = texts.append
    parser.feed(text)
    assert f"2 systems on data {name}" in texts and f"{name}: {name}" in texts
    assert not {"script", "b"} & set(tags) and tags.count("img") == 2
    assert f"../{name}-s0/report.html" in links


def test_variants_of_one_system_are_not_counted_as_systems(build):
    table = build(a=[0.2], b=[0.4])
    assert count_systems(table) == "2 systems"
    same = [replace(c, runs=tuple(replace(run, system="disdiff") for run in c.runs)) for c in table.columns]
    assert count_systems(replace(table, columns=same)) == "2 configurations of disdiff"
    assert count_systems(replace(table, columns=same[:1])) == "disdiff"
