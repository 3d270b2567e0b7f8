"""Settings of Postfix that nothing here is like: what each is about, and what to do. A * stands for any text."""

from __future__ import annotations

import fnmatch

__all__ = ["unlike"]

_REWRITING = "addresses in headers and envelopes are not rewritten"
_PROGRAMS = "mail is not handed to programs, nor to files of users"
_LOCAL = "mailgate does not deliver as local(8) does"
_REPORTS = "reports about mail have a form and a way of their own"
_CLIENTS = "clients of TLS certificates are no such class"
_COPIES = "no filter sends copies to somebody else"
_UNKNOWN = "a recipient whom nobody knows is refused for good (550 5.1.1), whatever the code was"
_WIRE = "how the client talks to other servers is not changed by single settings"

#: Patterns of names: what is not there, and what to do.
_UNLIKE: tuple[tuple[str, str, str], ...] = (
    ("canonical_*", _REWRITING, "See [aliases] for recipients, and sender rewriting in the guide on addresses"),
    ("*_canonical_*", _REWRITING, "See [aliases] for recipients, and sender rewriting in the guide on addresses"),
    ("masquerade_*", _REWRITING, "Let the programs that send write the right domain"),
    ("smtp_generic_maps", _REWRITING, "Let the programs that send write the right addresses"),
    ("lmtp_generic_maps", _REWRITING, "Let the programs that send write the right addresses"),
    ("remote_header_rewrite_domain", _REWRITING, ""),
    ("local_header_rewrite_clients", "incomplete addresses in headers are not completed", ""),
    ("address_rewrite_maps", _REWRITING, ""),
    ("relocated_maps", "nobody is told of a new address", "Write `deny recipient ADDRESS has moved to ...` for access"),
    ("luser_relay", "mail to unknown recipients is refused, and goes nowhere else",
     "An alias @DOMAIN of [aliases] takes them all"),
    ("mailbox_command*", _PROGRAMS, "Hand mail to a mailbox server by LMTP"),
    ("mailbox_transport_maps", "single mailboxes have no route of their own", "See [routing] recipients"),
    ("fallback_transport*", "unknown recipients have no other route", "Name the [recipients.NAME] that knows them"),
    ("home_mailbox", _LOCAL, "A route with transport maildir, or LMTP"),
    ("mail_spool_directory", _LOCAL, "A route with transport maildir, or LMTP"),
    ("forward_path", "files of forwarding are not read", "Write what they say as [aliases]"),
    ("allow_mail_to_*", _PROGRAMS, ""),
    ("command_execution_directory", _PROGRAMS, ""),
    ("command_expansion_filter", _PROGRAMS, ""),
    ("command_time_limit", _PROGRAMS, ""),
    ("always_bcc", _COPIES, "A filter of your own can add a recipient"),
    ("sender_bcc_maps", _COPIES, "A filter of your own can add a recipient"),
    ("bounce_template_file", _REPORTS, "See [reports] for their texts"),
    ("bounce_queue_lifetime", "reports are given up after the same time as other mail", "See expire of the route"),
    ("bounce_notice_recipient", _REPORTS, "Webhooks and the log tell of what was returned"),
    ("2bounce_notice_recipient", _REPORTS, "Webhooks and the log tell of what was returned"),
    ("delay_notice_recipient", _REPORTS, "Webhooks and the log tell of what waits"),
    ("error_notice_recipient", _REPORTS, "Webhooks and the log tell of errors"),
    ("notify_classes", "the postmaster gets no mail about single events", "Webhooks, metrics and the log tell of them"),
    ("double_bounce_sender", _REPORTS, ""),
    ("empty_address_recipient", _REPORTS, ""),
    ("confirm_delay_cleared", "nobody is told that delayed mail has gone at last", ""),
    ("smtpd_reject_footer*", "replies have no common end", "Each filter has a text of its own"),
    ("rbl_reply_maps", "see text of the filter dnsbl, which is one for all its lists", "Look at its words"),
    ("default_rbl_reply", "see text of the filter dnsbl", "Look at its words"),
    ("smtpd_soft_error_limit", "errors are not answered ever more slowly by themselves", "See the filter tarpit"),
    ("smtpd_error_sleep_time", "errors are not answered ever more slowly by themselves", "See the filter tarpit"),
    ("smtpd_junk_command_limit", "max_commands of the listener bounds the same, and counts otherwise", ""),
    ("smtpd_client_auth_rate_limit", "logins are bounded by failures", "See max_auth_failures_per_client"),
    ("smtpd_client_new_tls_session_rate_limit", "handshakes are counted as connections", "See the filter rate-limit"),
    ("smtpd_reject_unlisted_sender", "senders of ours that do not exist are not refused",
     "See strangers of the filter sender-login"),
    ("smtpd_etrn_restrictions", "ETRN is for clients that may relay", ""),
    ("smtpd_milter_maps", "one listener has the same milters for all", "See except_for and only_for of the filter"),
    ("smtpd_command_filter", "commands are taken as they come", ""),
    ("smtpd_forbidden_commands", "browsers and proxies are hung up on, and there is no list of these", ""),
    ("smtpd_noop_commands", "there is no list of commands that do nothing", ""),
    ("smtpd_discard_ehlo_keyword_address_maps", "extensions are hidden for whole listeners",
     "See hide of the listener"),
    ("smtpd_forbid_bare_newline_exclusions", "no client is spared", "See bare_newlines of a listener of its own"),
    ("smtpd_sasl_exceptions_networks", "AUTH is offered to everybody at a listener", "Give them one of their own"),
    ("smtpd_sasl_local_domain", "a login is asked for as the client gives it, with no domain added",
     "Look at what users give as their names"),
    ("smtpd_sasl_mechanism_filter", "what is offered is said by the listener", "See auth_mechanisms"),
    ("smtpd_sasl_authenticated_header", "who has logged in is not told to recipients", ""),
    ("smtp_sender_dependent_authentication", "who sends decides the login by the route of [routing.senders] alone",
     "Give each sender with a password of its own a route"),
    ("smtp_discard_ehlo_keyword*", _WIRE, "What the next hop offers is used"),
    ("smtp_dns_support_level", "see [dns], and security of the route", ""),
    ("smtp_host_lookup", "names are asked of DNS only", "Put such hosts into DNS, or write addresses into hosts"),
    ("disable_dns_lookups", "names are asked of DNS", "Write addresses into hosts"),
    ("smtp_fallback_relay", "a second way is a route", "See fallback of the route"),
    ("fallback_relay", "a second way is a route", "See fallback of the route"),
    ("smtp_*_checks", "headers are not changed by expressions on the way out", "See edit-headers"),
    ("*_destination_recipient_limit", "recipients of one mail to a next hop are bounded by what that takes", ""),
    ("*_destination_rate_delay", "a pause between deliveries is written as a rate", "See [shaping.NAME] message_rate"),
    ("*_transport_rate_delay", "a pause between deliveries is written as a rate", "See [shaping.NAME] message_rate"),
    ("*_destination_concurrency_*", "connections grow and shrink by what the next hop does",
     "See connections of the route, and [shaping.NAME]"),
    ("*_initial_destination_concurrency", "connections grow and shrink by what the next hop does",
     "See connections of the route, and [shaping.NAME]"),
    ("defer_transports", "nothing is held back by its transport", "mailgate queue suspend does that"),
    ("permit_mx_backup_networks", "nobody's backup is found out by MX", "Name the domains in [domains]"),
    ("proxy_interfaces", "the addresses of a NAT are not told", "Name them in identities or in MX only"),
    ("relay_clientcerts", _CLIENTS, "See tls.client_fingerprints and client_certificates of the listener"),
    ("smtpd_tls_ccert_verifydepth", _CLIENTS, ""),
    ("smtpd_tls_*_ccert", _CLIENTS, "See client_certificates of the listener"),
    ("unknown_*_recipient_reject_code", _UNKNOWN, "Where 450 was a safety net, rehearse first"),
    ("unknown_virtual_*_reject_code", _UNKNOWN, "Where 450 was a safety net, rehearse first"),
    ("unverified_*", "what a callout finds out has a reply of its own", "See [recipients.NAME] of kind callout"),
    ("*_reject_code", "replies have the code of their filter", "Each filter that may defer has an option for it"),
    ("*_defer_code", "replies have the code of their filter", "Each filter that may defer has an option for it"),
    ("*_tempfail_action", "what is done where DNS gives no answer is an option of each filter", "See on_failure"),
    ("receive_override_options", "every listener does the same with what it takes",
     "Look at whether aliases and milters are wanted there"),
    ("propagate_unmatched_extensions", "what stands behind the delimiter is not added to targets of aliases", ""),
    ("message_drop_headers", "see strip of the filter headers", "Name those that are to go"),
    ("message_*_characters", "content with NUL or bare line ends is refused", ""),
    ("always_add_missing_headers", "see the filter submission", ""),
    ("undisclosed_recipients_header", "see the filter submission", ""),
    ("prepend_delivered_header", _LOCAL, ""),
    ("body_checks_size_limit", "the filter signatures looks at all of a part, by its own bound", "See its options"),
    ("multi_instance_directories", "other instances of Postfix have folders of their own", "Import each by itself"),
    ("alternate_config_directories", "other instances of Postfix have folders of their own", "Import each by itself"),
    ("master_service_disable", "services are left out by master.cf alone",
     "Look at whether a listener was made of one that is disabled"),
    ("qmqpd_*", "QMQP is not spoken", "Let those clients use SMTP"),
    ("authorized_*_users", "the commands of Postfix are none of ours", "The control socket has a mode of its own"),
    ("non_smtpd_milters", "there is no mail of local programs but by SMTP", ""),
)  # fmt: skip


def unlike(name: str) -> tuple[str, str] | None:
    """Why there is nothing like this setting, and what to do; None where that is not known."""
    return next(((why, advice) for one, why, advice in _UNLIKE if fnmatch.fnmatchcase(name, one)), None)
