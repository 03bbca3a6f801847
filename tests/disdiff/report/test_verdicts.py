"""Verdicts on made-up runs; the list of claims is consistent and the page says what is missing."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from disdiff.config.schema import Config, read_yaml
from disdiff.config.yaml_texts import list_kinds
from disdiff.report.claims import CLAIMS, Claim
from disdiff.report.claims_page import NOT_RUN, Trial, judge, write_page
from disdiff.report.verdicts import (
    FAILS,
    HOLDS,
    UNDECIDED,
    Arm,
    below,
    every,
    first_of,
    higher,
    lower,
    not_lower,
)

ROOT = Path(__file__).resolve().parents[3]
ONE, TWO = Arm("one", "one.yaml"), Arm("two", "two.yaml")
FAR, NEAR, FEW = ([0.8, 0.82, 0.84], [0.5, 0.52, 0.54]), ([0.5, 0.7, 0.9], [0.4, 0.6, 0.8]), ([0.9], [0.1])


def runs(one, two=(), row="DCI"):
    """Results of two arms with one value each."""
    return {"one": [{row: value} for value in one], "two": [{row: value} for value in two]}


@pytest.mark.parametrize(
    ("kind", "sides", "word"),
    [
        (higher, FAR, HOLDS),
        (higher, FAR[::-1], FAILS),
        (higher, NEAR, UNDECIDED),
        (higher, FEW, UNDECIDED),
        (lower, FAR, FAILS),
        (lower, FAR[::-1], HOLDS),
        (not_lower, FAR, HOLDS),
        (not_lower, NEAR, HOLDS),
        (not_lower, FAR[::-1], FAILS),
        (not_lower, FEW, UNDECIDED),
    ],
)
def test_a_difference_counts_beyond_twice_its_error_with_three_seeds(kind, sides, word):
    verdict = kind("DCI", ONE, TWO)(runs(*sides))
    assert verdict.word == word and (word != UNDECIDED) == (not verdict.reason)
    assert verdict.outcome.startswith("DCI: one ") and "two" in verdict.outcome


def test_a_verdict_says_its_numbers():
    assert higher("DCI", ONE, TWO)(runs(*FAR)).outcome == "DCI: one 0.82 ± 0.02, two 0.52 ± 0.02"
    assert "2 seeds where 3" in higher("DCI", ONE, TWO)(runs([0.1, 0.2], [0.3, 0.4])).reason


def test_a_bound_and_an_order_within_a_run():
    assert below("DCI", ONE, 0.9)(runs(FAR[0])).word == HOLDS
    assert below("DCI", ONE, 0.7)(runs(FAR[0])).word == FAILS
    assert below("DCI", ONE, 0.82)(runs(FAR[0])).word == UNDECIDED
    made = {"one": [{"a": 3.0 + x, "b": 2.0 + x, "c": 1.0} for x in (0, 5, 10)]}
    assert first_of(("a", "b", "c"), ONE)(made).word == HOLDS
    assert first_of(("c", "a", "b"), ONE)(made).word == FAILS


def test_a_claim_of_parts_holds_if_all_do():
    yes, no = higher("DCI", ONE, TWO), lower("DCI", ONE, TWO)
    assert every(yes, yes)(runs(*FAR)).word == HOLDS
    assert every(yes, no)(runs(*FAR)).word == FAILS
    assert every(yes, higher("MIG", ONE, TWO))(runs(*FAR)).word == UNDECIDED


class TestClaims:
    def test_all_thirteen_are_there(self):
        assert list(dict.fromkeys(claim.number.split(",")[0] for claim in CLAIMS)) == [
            str(n) for n in range(1, 14)
        ]
        assert all(bool(claim.missing) != bool(claim.judge and claim.arms and claim.rows) for claim in CLAIMS)

    def test_an_arm_of_one_name_is_one_run(self):
        arms = [arm for claim in CLAIMS for arm in claim.arms]
        assert len({arm.name for arm in arms}) == len(set(arms))

    def test_every_arm_has_its_file_and_keys_and_arms_of_a_claim_share_their_data(self):
        keys = set(list_kinds(Config))
        for claim in CLAIMS:
            data = set()
            for arm in claim.arms:
                assert {override.partition("=")[0] for override in arm.overrides} < keys
                of_data = [override for override in arm.overrides if override.startswith("data.")]
                data.add((*read_yaml(ROOT / arm.file).bases, *of_data))
            assert len(data) <= 1

    def test_they_can_be_judged_by_the_values_they_ask_for(self):
        """With a value that grows along the arms every claim gets a verdict."""
        for claim in CLAIMS:
            results = {
                arm.name: [{row: 1.0 + i + 0.01 * seed for row in claim.rows} for seed in range(3)]
                for i, arm in enumerate(claim.arms)
            }
            verdict = judge(claim, Trial(results))
            assert verdict.word == NOT_RUN if claim.missing else verdict.word != NOT_RUN


class TestPage:
    claim = Claim("1", "One beats two.", "a paper", "In DCI.", (ONE, TWO), ("DCI",), higher("DCI", ONE, TWO))

    def write(self, *sides, **changes):
        trial = Trial(runs(*sides), "shapes3d (procedural), paper", [64_000], [300.0], 6, **changes)
        return write_page([self.claim], {"1": trial})

    def test_a_row_has_data_budget_seeds_outcome_and_verdict(self):
        row = next(line for line in self.write(*FAR).splitlines() if line.startswith("| [1]"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        budget = "shapes3d (procedural), paper; 3 seeds; 64,000 images, 5 min"
        assert cells == [
            "[1](#claim-1)",
            "One beats two.",
            "a paper",
            budget,
            "DCI: one 0.82 ± 0.02, two 0.52 ± 0.02",
            HOLDS,
        ]

    def test_its_section_has_the_numbers_of_every_arm_and_the_commands(self):
        page = self.write(*FAR, commands={"one": ["disdiff train --base one.yaml"]})
        assert "| two | 3 | 0.52 ± 0.02 |" in page and "\ndisdiff train --base one.yaml\n" in page

    def test_what_is_not_run_says_how_long_it_takes(self):
        page = self.write(FAR[0], num_missing=3, seconds_left=7200.0)
        assert "| not run yet: 3 of 6 runs; the rest takes about 2.0 h here |" in page
        assert "| one | 3 | 0.82 ± 0.02 |" in page and "1 not run yet." in page

    def test_an_undecided_claim_says_why(self):
        assert re.search(rf"{UNDECIDED}, because 1 seeds where 3 are needed \|", self.write(*FEW))

    def test_a_claim_without_measurement_says_so(self):
        claim = replace(self.claim, missing="pairs of units")
        assert "there is no measurement yet of pairs of units" in write_page([claim], {"1": Trial({})})
