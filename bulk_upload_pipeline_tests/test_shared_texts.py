"""Rows of a sheet are weighed by the texts that they name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulk_upload_pipeline.reading.shared_texts import LONG, SharedTexts

AROUND = 64
"""Bytes of XML around a text, at the most."""

SIZES = st.lists(st.one_of(st.integers(0, LONG - AROUND), st.integers(LONG, 5 * LONG)), max_size=30)


def learnt(texts, prefix, block):
    tag = f"{prefix}si".encode()
    whole = f"<?xml version='1.0'?><{prefix}sst count='1'>".encode()
    whole += b"".join(b"<%s><t>%s</t></%s>" % (tag, b"x" * size, tag) for size in texts)
    whole += f"</{prefix}sst>".encode()
    shared = SharedTexts()
    for start in range(0, len(whole), block):
        shared.learn(whole[start : start + block])
    shared.close()
    return shared


@given(SIZES, st.data(), st.sampled_from(["", "x:"]), st.integers(64, 4_000))
def test_a_row_weighs_what_the_long_texts_that_it_names_weigh(sizes, data, prefix, block):
    numbers = st.integers(0, len(sizes) + 2)
    rows = data.draw(st.lists(st.lists(numbers, max_size=9), max_size=9))
    cells = b'<%sc r="A1" s="1" t="s"><%sv>%d</%sv></%sc>'
    p = prefix.encode()
    xml = [b"".join(cells % (p, p, number, p, p) for number in row) for row in rows]
    weights = learnt(sizes, prefix, block).weights(xml, 0) or [0] * len(rows)
    for row, weight in zip(rows, weights, strict=True):
        long = [sizes[number] for number in row if number < len(sizes) and sizes[number] >= LONG]
        assert sum(long) <= weight <= sum(long) + AROUND * len(long)


@pytest.mark.parametrize(("little", "looked_at"), [(9_000, True), (20_000, False)])
def test_rows_that_cannot_name_much_are_not_looked_at(little, looked_at):
    rows = [b'<c r="A1" t="s"><v>0</v></c>'] * 10
    assert (learnt([1_000], "", 100).weights(rows, little) is not None) == looked_at


def test_a_number_in_a_cell_names_no_text():
    assert learnt([1_000], "", 100).weights([b'<c r="A1"><v>0</v></c>' * 50], -1) == [0]
