import io

import numpy as np
import pytest
from PIL import Image

from disdiff.report.figures import plot_importance, plot_information, plot_training, plot_votes, to_png


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_importance_has_scores_in_its_margins():
    importance = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    figure = plot_importance(importance, [0, 1, 2], ["f", "g"])
    found = texts(figure)
    assert found[:6] == ["1.00", "0.00", "0.00", "1.00", "0.00", "0.00"]
    assert found[6:11] == ["1.00", "1.00", "0.00", "1.00", "1.00"] and found[11:] == ["D", "C"]


def test_information_frames_the_best_two_units_of_each_factor():
    figure = plot_information(np.array([[0.1, 0.9], [0.7, 0.2], [0.5, 0.0]]), [0, 1, 2], ["f", "g"])
    frames = [(patch.get_x() + 0.46, patch.get_y() + 0.46) for patch in figure.axes[0].patches]
    assert np.allclose(frames, [(0, 1), (0, 2), (1, 0), (1, 1)])


def test_some_units_keep_their_numbers_and_the_margins_count_all():
    importance = np.array([[0.5, 0.0], [0.0, 1.0], [0.5, 0.0]])
    figure = plot_importance(importance, [1, 2], ["f", "g"])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["unit 1", "unit 2"]
    assert texts(figure)[6:8] == ["0.37", "1.00"]  # C: f is shared by two units, one of them not shown
    information = plot_information(np.array([[0.1, 0.9], [0.7, 0.2], [0.5, 0.0]]), [1, 2], ["f", "g"])
    frames = [(patch.get_x() + 0.46, patch.get_y() + 0.46) for patch in information.axes[0].patches]
    assert np.allclose(frames, [(0, 0), (0, 1), (1, 0)])


def test_votes_are_counts():
    assert texts(plot_votes(np.array([[3, 0]]), [0], ["f", "g"])) == ["3", "0"]


def test_curves_skip_empty_cells():
    rows = [{"step": "1", "loss": "0.5", "rare": ""}, {"step": "2", "loss": "0.4", "rare": "3"}]
    figure = plot_training(rows)
    drawn = [axes.lines[0].get_xydata().tolist() for axes in figure.axes if axes.lines]
    assert drawn == [[[1.0, 0.5], [2.0, 0.4]], [[2.0, 3.0]]]


@pytest.mark.parametrize("values", [np.zeros((4, 2)), np.ones((1, 1))])
def test_png_is_an_image(values):
    factors = [str(i) for i in range(values.shape[1])]
    data = to_png(plot_votes(values, list(range(len(values))), factors))
    assert min(Image.open(io.BytesIO(data)).size) > 50
