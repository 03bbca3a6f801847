"""Verdicts on made-up runs; the list of claims is consistent and the page says what is missing."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from disdiff.config.schema import Config, read_yaml
from disdiff.config.yaml_texts import list_kinds
from disdiff.report.claims import CLAIMS, SHARED, Claim
from disdiff.report.claims_page import NOT_RUN, Trial, judge, write_page
from disdiff.report.verdicts import FAILS, HOLDS, UNDECIDED, Arm, Check, judge_all

ROOT = Path(__file__).resolve().parents[3]
ONE, TWO = Arm("one", "one.yaml"), Arm("two", "two.yaml")
FAR, NEAR, FEW = ([0.8, 0.82, 0.84], [0.5, 0.52, 0.54]), ([0.5, 0.7, 0.9], [0.4, 0.6, 0.8]), ([0.9], [0.1])


def runs(one, two=(), row="DCI"):
    """Results of two arms with one value each."""
    return {"one": [{row: value} for value in one], "two": [{row: value} for value in two]}


@pytest.mark.parametrize(
    ("relation", "sides", "word"),
    [
        ("above", FAR, HOLDS),
        ("above", FAR[::-1], FAILS),
        ("above", NEAR, UNDECIDED),
        ("above", FEW, UNDECIDED),
        ("below", FAR, FAILS),
        ("below", FAR[::-1], HOLDS),
        ("not below", FAR, HOLDS),
        ("not below", NEAR, HOLDS),
        ("not below", FAR[::-1], FAILS),
        ("not below", FEW, UNDECIDED),
    ],
)
def test_a_difference_counts_beyond_twice_its_error_with_three_seeds(relation, sides, word):
    verdict = Check(ONE, "DCI", relation, TWO).judge(runs(*sides))
    assert verdict.word == word and (word != UNDECIDED) == (not verdict.reason)
    assert verdict.outcome.startswith("DCI: one ") and "two" in verdict.outcome


def test_a_verdict_says_its_numbers():
    above = Check(ONE, "DCI", "above", TWO)
    assert above.judge(runs(*FAR)).outcome == "DCI: one 0.82 ± 0.02, two 0.52 ± 0.02 (yes)"
    assert "too few seeds, 3 are" in above.judge(runs([0.1, 0.2], [0.3, 0.4])).reason


def test_a_bound_and_an_order_within_a_run():
    for bound, word in ((0.9, HOLDS), (0.7, FAILS), (0.82, UNDECIDED)):
        assert Check(ONE, "DCI", "below", bound).judge(runs(FAR[0])).word == word
    made = {"one": [{"a": 3.0 + x, "b": 2.0 + x} for x in (0, 5, 10)]}  # the runs differ more than the values
    assert Check(ONE, "a", "above", "b").judge(made).word == HOLDS
    assert Check(ONE, "b", "above", "a").judge(made).word == FAILS


def test_a_claim_of_parts_holds_if_all_do():
    yes, no = Check(ONE, "DCI", "above", TWO), Check(ONE, "DCI", "below", TWO)
    assert judge_all((yes, yes), runs(*FAR)).word == HOLDS
    assert judge_all((yes, no), runs(*FAR)).word == FAILS
    assert judge_all((yes, Check(ONE, "MIG", "above", TWO)), runs(*FAR)).word == UNDECIDED


class TestClaims:
    def test_all_thirteen_are_there(self):
        assert list(dict.fromkeys(claim.number.split(",")[0] for claim in CLAIMS)) == [
            str(n) for n in range(1, 14)
        ]

    def test_an_arm_of_one_name_is_one_run(self):
        arms = [arm for claim in CLAIMS for arm in claim.arms]
        assert len({arm.name for arm in arms}) == len(set(arms))

    def test_every_arm_has_its_file_and_keys_and_arms_of_a_claim_share_their_data(self):
        keys = set(list_kinds(Config))
        assert {override.partition("=")[0] for override in SHARED} < keys
        for claim in CLAIMS:
            data = set()
            for arm in claim.arms:
                if arm.ships:
                    assert (ROOT / arm.file / "metrics.json").exists()
                    continue
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
            assert judge(claim, Trial(results)).word != NOT_RUN
            assert {check.row for check in claim.checks} <= set(claim.rows)
            measured = {row for measure in claim.measures for row in measure.rows.values()}
            assert not claim.measures or measured & set(claim.rows)


class TestPage:
    claim = Claim(
        number="1",
        text="One beats two.",
        made="a paper",
        reading="In DCI.",
        decides="little",
        arms=(ONE, TWO),
        rows=("DCI",),
        checks=(Check(ONE, "DCI", "above", TWO),),
    )

    def write(self, *sides, **changes):
        trial = Trial(runs(*sides), "shapes3d (procedural), paper", [64_000], [300.0], 6, **changes)
        return write_page([self.claim], {"1": trial})

    def test_a_row_has_data_budget_seeds_outcome_and_verdict(self):
        row = next(line for line in self.write(*FAR).splitlines() if line.startswith("| [1]"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells == [
            "[1](#claim-1)",
            "One beats two.",
            "a paper",
            "shapes3d (procedural), paper; 3 seeds; 64,000 images a run, 5 min. Can decide: little",
            "DCI: one 0.82 ± 0.02, two 0.52 ± 0.02 (yes)",
            HOLDS,
        ]

    def test_its_section_has_arms_numbers_and_pictures(self):
        page = self.write(*FAR, pictures=["claims/one-s21-curves.png"])
        assert "| DCI | 0.82 ± 0.02 | 0.52 ± 0.02 |" in page and "| two | `two.yaml` |  |" in page
        assert "![one-s21-curves](claims/one-s21-curves.png)" in page

    def test_what_is_not_run_says_how_long_it_takes(self):
        page = self.write(FAR[0], num_missing=3, seconds_left=7200.0)
        assert "| not run yet: 3 of 6 runs; the rest takes about 2.0 h |" in page
        assert "| DCI | 0.82 ± 0.02 | - |" in page and "1 not run yet." in page

    def test_what_a_short_training_cannot_refute_stays_open(self):
        claim = replace(self.claim, unrefuted="it still grows")
        results = runs(*FAR[::-1])
        assert judge(self.claim, Trial(results)).word == FAILS
        assert judge(claim, Trial(results)) == (
            UNDECIDED,
            judge(self.claim, Trial(results)).outcome,
            "it still grows",
        )
        assert judge(claim, Trial(runs(*FAR))).word == HOLDS

    def test_an_undecided_claim_says_why(self):
        assert re.search(rf"{UNDECIDED}, because there are too few seeds, 3 are needed \|", self.write(*FEW))
