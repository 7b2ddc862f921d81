import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import sealed, tokens

modes = st.sampled_from(["live", "test"])
partitions = st.integers(0, 99)


@given(modes, partitions)
def test_a_drawn_key_is_what_the_contract_promises(mode, partition):
    token = tokens.draw(mode, partition)

    assert re.fullmatch(rf"ks_{mode}_{partition:02d}[0-9A-Za-z]{{46}}", token.text)
    assert tokens.parse(token.text) == token


@given(modes, partitions, st.data())
def test_one_wrong_character_is_noticed_before_any_look_up(mode, partition, data):
    text = tokens.draw(mode, partition).text
    position = data.draw(st.integers(0, len(text) - 1))
    wrong = data.draw(st.sampled_from([c for c in string.printable if c != text[position]]))

    assert tokens.parse(text[:position] + wrong + text[position + 1 :]) is None


@given(st.text())
def test_what_is_no_key_is_refused_without_an_exception(text):
    assert tokens.parse(text) is None


@pytest.mark.parametrize("change", ["{}\n", " {}", "{} ", "{}0", "{}\0"])
def test_nothing_may_stand_around_a_key(change):
    text = tokens.draw("live", 0).text

    assert tokens.parse(change.format(text)) is None


def test_digits_of_other_scripts_are_no_partition():
    text = tokens.draw("live", 0).text

    assert tokens.parse(text.replace("_00", "_٠٠", 1)) is None


def test_a_secret_is_not_in_the_representation_of_its_key():
    token = tokens.draw("live", 0)

    assert token.text not in repr(token)


def test_a_digest_depends_on_the_pepper(settings):
    text = tokens.draw("live", 0).text
    before = tokens.digest(text)
    settings.KEY_PEPPER = "another pepper"

    assert re.fullmatch("[0-9a-f]{64}", before)
    assert tokens.digest(text) != before


def test_keys_are_not_drawn_for_partitions_that_their_text_cannot_carry():
    with pytest.raises(ValueError, match="100"):
        tokens.draw("live", 100)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_sealed_secret_opens_again(text):
    assert sealed.unseal(sealed.seal(text)) == text


def test_a_changed_seal_does_not_open():
    seal = sealed.seal("Bearer backend")

    with pytest.raises(sealed.SealBroken):
        sealed.unseal(seal[:-4] + "AAA=")
