import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from disdiff.metrics.latent_quality import compute_latent_quality


def test_agrees_with_scikit_learn_fold_by_fold(rotated, factors):
    attributes = (factors > 1).astype(int)
    codes = rotated + np.random.default_rng(0).normal(size=rotated.shape)
    result = compute_latent_quality(codes, attributes, num_rows=1_000)
    aurocs = []
    for train, test in KFold(5, shuffle=True, random_state=0).split(codes[:1_000]):
        scaler = StandardScaler().fit(codes[train])
        for labels in attributes.T:
            model = LogisticRegression().fit(scaler.transform(codes[train]), labels[train])
            aurocs.append(
                roc_auc_score(labels[test], model.predict_proba(scaler.transform(codes[test]))[:, 1])
            )
    assert result["auroc"] == pytest.approx(np.mean(aurocs), abs=1e-6)
    assert result["auroc_std"] == pytest.approx(np.reshape(aurocs, (5, 3)).mean(axis=1).std(), abs=1e-6)


def test_a_probe_reads_rotated_codes_and_no_noise(rotated, independent, factors):
    attributes = (factors > 1).astype(int)
    assert compute_latent_quality(rotated, attributes, num_rows=1_000)["auroc"] > 0.98
    assert compute_latent_quality(independent, attributes, num_rows=1_000)["auroc"] == pytest.approx(
        0.5, abs=0.06
    )


def test_multi_valued_factors_are_judged_by_accuracy(rotated, factors):
    result = compute_latent_quality(rotated[..., None] * [1.0, 2.0], factors, num_rows=1_000, mapping="pca1")
    assert "auroc" not in result
    assert result["accuracy"] > 0.8
    assert (result["width"], result["mapping"]) == (3, "pca1")
