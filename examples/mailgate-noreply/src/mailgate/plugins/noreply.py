"""Makes the filter known to mailgate."""

from mailgate.pipeline.registry import FilterMaker

noreply = FilterMaker("noreply", "mailgate_noreply", "refuses mail from addresses that take no answers")
