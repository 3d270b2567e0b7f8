"""Makes the filter known to mailgate."""

from mailgate.pipeline.registry import FilterMaker

mailing_list = FilterMaker("mailing-list", "mailing_list", "sends mail to a list on to its members")
