from __future__ import annotations

import pytest

from shared.errors import InvalidInput
from shared.names import ID_PATTERN, checked_name, new_id


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    ids = [new_id("job", now=1_700_000_000 + n / 1000) for n in range(1000)]
    assert ids == sorted(ids)
    assert len({new_id("job") for _ in range(10_000)}) == 10_000
    assert all(ID_PATTERN.fullmatch(one) for one in ids)


@pytest.mark.parametrize("name", ["fashion", "a", "A-1_b", "0a"])
def test_good_names_pass(name: str) -> None:
    assert checked_name(name, field="model") == name


@pytest.mark.parametrize("name", ["", "..", "a/b", "-a", "12", "a" * 64, "a\x00"])
def test_bad_names_name_the_field_and_the_rule(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        checked_name(name, field="publish.model")
    assert caught.value.field == "publish.model"
    assert "letters" in str(caught.value.hint)
