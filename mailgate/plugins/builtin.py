"""The filters that come with the gateway: one line each; their modules are imported only when configured."""

from __future__ import annotations

from mailgate.pipeline.registry import FilterMaker

__all__ = ["access", "early_talker", "headers", "rate_limit", "recipients"]

access = FilterMaker("access", "mailgate.filters.access", "allows and refuses clients, names, senders and recipients")
early_talker = FilterMaker("early-talker", "mailgate.filters.early_talker", "refuses clients that talk before we do")
rate_limit = FilterMaker("rate-limit", "mailgate.filters.rate_limit", "limits how much a client or sender may send")
recipients = FilterMaker("recipients", "mailgate.filters.recipients", "refuses recipients that do not exist")
headers = FilterMaker("headers", "mailgate.filters.headers", "adds the Received field, and what a message lacks")
