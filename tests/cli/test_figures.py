"""The figures of the demo's line, out of a page of metrics."""

from __future__ import annotations

import pytest

from metergate.cli.figures import Figures, read_figures

PAGE = """\
# TYPE metergate_events_recorded counter
metergate_events_recorded_total{destination="a:1"} 5.0
metergate_events_recorded_total{destination="b:1"} 2.0
# TYPE metergate_events_delivered counter
metergate_events_delivered_total{destination="a:1"} 4.0
# TYPE metergate_events_pending gauge
metergate_events_pending{destination="a:1"} 1.0
metergate_events_pending{destination="b:1"} 2.0
# TYPE metergate_decisions counter
metergate_decisions_total{reason="granted"} 5.0
metergate_decisions_total{reason="stale"} 1.0
metergate_decisions_total{reason="error_allowed"} 1.0
metergate_decisions_total{reason="exhausted"} 3.0
metergate_decisions_total{reason="no_subject"} 1.0
"""


def test_figures_add_up_over_destinations_and_reasons():
    figures = read_figures(PAGE)
    assert figures == Figures(metered=7, allowed=7, denied=4, delivered=4, waiting=3)
    assert str(figures) == "metered 7   allowed 7   denied 4   delivered 4   waiting 3"


def test_before_anything_is_counted_all_is_zero():
    assert read_figures("") == Figures()


@pytest.mark.parametrize("text", ['{"type":"https://httpproblems.com/http-status/404"}', "<html>", "a{b"])
def test_what_is_no_page_of_metrics_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        read_figures(text)
