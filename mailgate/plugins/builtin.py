"""The filters that come with the gateway: one line each; their modules are imported only when configured."""

from __future__ import annotations

from mailgate.pipeline.registry import FilterMaker

__all__ = [
    "access",
    "arc",
    "arc_seal",
    "attachments",
    "authentication_results",
    "banner",
    "batv",
    "clamav",
    "command",
    "compromised",
    "dedupe",
    "dkim",
    "dkim_sign",
    "dmarc",
    "dnsbl",
    "early_talker",
    "edit_headers",
    "exchange_online",
    "fcrdns",
    "feedback",
    "geo",
    "greylist",
    "header_firewall",
    "headers",
    "headers_check",
    "helo",
    "http",
    "list_unsubscribe",
    "milter",
    "null_sender",
    "quota",
    "rate_limit",
    "recipients",
    "reputation",
    "resolvable",
    "rspamd",
    "score",
    "sender_login",
    "signatures",
    "spamassassin",
    "spf",
    "stream",
    "submission",
    "suppressions",
    "tarpit",
    "uribl",
    "verp",
]

# the connection
access = FilterMaker("access", "mailgate.filters.access", "allows and refuses clients, names, senders and recipients")
dnsbl = FilterMaker("dnsbl", "mailgate.filters.dnsbl", "asks block and allow lists in DNS about clients and domains")
early_talker = FilterMaker("early-talker", "mailgate.filters.early_talker", "refuses clients that talk before we do")
fcrdns = FilterMaker("fcrdns", "mailgate.filters.fcrdns", "judges the client's name in DNS")
geo = FilterMaker("geo", "mailgate.filters.geo", "tells the client's country and network, and refuses by them")
helo = FilterMaker("helo", "mailgate.filters.helo", "judges the name that a client gives itself")
rate_limit = FilterMaker("rate-limit", "mailgate.filters.rate_limit", "limits how much a client or sender may send")
reputation = FilterMaker(
    "reputation", "mailgate.filters.reputation", "remembers how mail of networks and domains fared"
)
tarpit = FilterMaker("tarpit", "mailgate.filters.tarpit", "lets those wait who have something against them")
# the envelope
greylist = FilterMaker("greylist", "mailgate.filters.greylist", "has strangers come back a little later")
recipients = FilterMaker("recipients", "mailgate.filters.recipients", "refuses recipients that do not exist")
resolvable = FilterMaker("resolvable", "mailgate.filters.resolvable", "refuses senders whose domain takes no answers")
spf = FilterMaker("spf", "mailgate.filters.spf", "asks whether the client may send mail for the sender's domain")
# the message
arc = FilterMaker("arc", "mailgate.filters.arc", "verifies the chain of those that handed a message on")
attachments = FilterMaker(
    "attachments", "mailgate.filters.attachments", "judges attachments by what they are, in archives too"
)
authentication_results = FilterMaker(
    "authentication-results", "mailgate.filters.authentication_results", "tells what was found out about a message"
)
banner = FilterMaker("banner", "mailgate.filters.banner", "puts a text above or below what the sender wrote")
clamav = FilterMaker("clamav", "mailgate.filters.clamav", "has clamd look for viruses, and refuses what it finds")
command = FilterMaker("command", "mailgate.filters.command", "asks a command of the site's own, in any language")
dedupe = FilterMaker("dedupe", "mailgate.filters.dedupe", "finds messages that come again, or go in circles")
dkim = FilterMaker("dkim", "mailgate.filters.dkim", "verifies the DKIM signatures of messages")
dmarc = FilterMaker("dmarc", "mailgate.filters.dmarc", "does with forged mail what the owner of its domain asks")
edit_headers = FilterMaker(
    "edit-headers", "mailgate.filters.edit_headers", "adds, replaces, removes and tags header fields by rule"
)
headers = FilterMaker("headers", "mailgate.filters.headers", "adds the Received field, and what a message lacks")
headers_check = FilterMaker(
    "headers-check", "mailgate.filters.headers_check", "checks header fields, forged names and look-alike domains"
)
exchange_online = FilterMaker(
    "exchange-online", "mailgate.filters.exchange_online", "lets mail of Exchange Online go on for our tenants only"
)
header_firewall = FilterMaker(
    "header-firewall", "mailgate.filters.header_firewall", "removes fields by which an Exchange believes strangers"
)
http = FilterMaker("http", "mailgate.filters.http", "asks a service of your own about each message")
milter = FilterMaker("milter", "mailgate.filters.milter", "asks a milter that the site already has")
rspamd = FilterMaker("rspamd", "mailgate.filters.rspamd", "asks rspamd about each message, and does what it says")
score = FilterMaker("score", "mailgate.filters.score", "weighs what all filters have found; tags, quarantines, refuses")
signatures = FilterMaker("signatures", "mailgate.filters.signatures", "looks for strings and patterns in messages")
spamassassin = FilterMaker(
    "spamassassin", "mailgate.filters.spamassassin", "has SpamAssassin count what looks like spam"
)
uribl = FilterMaker("uribl", "mailgate.filters.uribl", "asks lists in DNS about the domains that links lead to")
# what our users send
arc_seal = FilterMaker(
    "arc-seal", "mailgate.filters.arc_seal", "seals what is handed on with what was found out about it"
)
batv = FilterMaker("batv", "mailgate.filters.batv", "tags reverse-paths, and knows reports about mail that is not ours")
dkim_sign = FilterMaker("dkim-sign", "mailgate.filters.dkim_sign", "signs mail of our users by DKIM")
list_unsubscribe = FilterMaker(
    "list-unsubscribe", "mailgate.filters.list_unsubscribe", "adds links to unsubscribe by one click"
)
verp = FilterMaker("verp", "mailgate.filters.verp", "gives each recipient of a newsletter a reverse-path of its own")
compromised = FilterMaker(
    "compromised", "mailgate.filters.compromised", "stops mail of accounts that others seem to use"
)
null_sender = FilterMaker(
    "null-sender", "mailgate.filters.null_sender", "judges reports, receipts and automatic replies"
)
quota = FilterMaker("quota", "mailgate.filters.quota", "limits how much an identity sends, and tells it before")
sender_login = FilterMaker(
    "sender-login", "mailgate.filters.sender_login", "lets users send as addresses of their own only"
)
submission = FilterMaker(
    "submission", "mailgate.filters.submission", "adds what mail of our users lacks, removes what others need not see"
)
feedback = FilterMaker("feedback", "mailgate.filters.feedback", "reads bounces and complaints about our mail")
stream = FilterMaker("stream", "mailgate.filters.stream", "tells the streams of our mail apart")
suppressions = FilterMaker(
    "suppressions", "mailgate.filters.suppressions", "holds up mail to those who cannot get it or do not want it"
)
