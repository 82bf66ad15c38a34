"""The kernel that writes the time: it takes part in overlapping launches, and in no others."""

from __future__ import annotations

from laudc.kernels.marks import mark_ptx


def test_where_launches_overlap_a_mark_lets_the_next_one_be_placed_then_waits_then_reads_the_clock() -> None:
    text = mark_ptx(overlapping=True)
    places = [text.index(word) for word in ("launch_dependents", "griddepcontrol.wait", "%globaltimer", "st.global")]
    assert places == sorted(places)
    assert ".target sm_90" in text


def test_elsewhere_it_only_reads_the_clock() -> None:
    text = mark_ptx(overlapping=False)
    assert "griddepcontrol" not in text
    assert text.index("%globaltimer") < text.index("st.global")
