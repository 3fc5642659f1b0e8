"""The table of mutations fits the code: what each replaces occurs once, and its tests are there."""

from __future__ import annotations

import pytest

from tests.mutations import MUTATIONS, REPO, Mutation, part_of


def test_what_a_mutation_replaces_occurs_once():
    texts = {mutation.file: (REPO / mutation.file).read_text(encoding="utf-8") for mutation in MUTATIONS}
    counts = {(m.file, m.right): texts[m.file].count(m.right) for m in MUTATIONS}
    assert {place: count for place, count in counts.items() if count != 1} == {}


def test_the_tests_of_every_mutation_are_there():
    assert [mutation for mutation in MUTATIONS if not (REPO / mutation.tests).is_file()] == []


def test_every_mutation_changes_something_and_is_listed_once():
    assert [mutation for mutation in MUTATIONS if mutation.wrong == mutation.right] == []
    assert len({(mutation.file, mutation.right, mutation.wrong) for mutation in MUTATIONS}) == len(MUTATIONS)


def test_the_parts_are_together_the_whole():
    parts = [part_of(MUTATIONS, f"{first}/10") for first in range(1, 11)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert sorted(mutation for part in parts for mutation in part) == sorted(MUTATIONS)


@pytest.mark.parametrize("part", ["3", "0/10", "11/10", "a/b", "/"])
def test_a_part_that_is_none_is_refused(part: str):
    with pytest.raises(ValueError, match="K/N"):
        part_of([Mutation("file", "right", "wrong", "tests")], part)
