"""What no part of an import has said: each plugin, each file and each line of those that have been read, so that
nothing is forgotten without a word."""

from __future__ import annotations

import re

from mailgate.moving.draft import Weight
from mailgate.moving.files import as_it_was
from mailgate.moving.haraka.filters import MISSING, PLUGINS
from mailgate.moving.haraka.reading import Haraka, Ini

__all__ = ["tell_rest"]

#: Plugins that something else stands for.
_COVERED = {
    "tls": "[tls]", "relay": "trusted_networks of the listener", "xclient": "xclient_from of the listener",
    "rcpt_to.in_host_list": "[domains]", "process_title": "mailgate queue top", "status": "mailgate queue",
    "syslog": "[log]", "log.syslog": "[log]", "watch": "mailgate queue top", "redis": "[counters] needs no server",
    "toobusy": "limits of the listener, and back-pressure", "delay_deny": "when of each filter: at RCPT by default",
    "aliases": "[aliases]", "reseed_rng": "nothing has to be done", "auth/flat_file": "[auth.users]",
    "queue/smtp_forward": "[routes]", "queue/smtp_proxy": "[routes] with queue = false", "queue/lmtp": "[routes]",
    "queue/discard": "filters", "rcpt_to.host_list_base": "[domains]", "auth/auth_base": "[auth.users]",
    "max_unrecognized_commands": "max_errors of the listener", "process": "nothing", "queue/deliver": "[routing]",
}  # fmt: skip
#: Files that something else stands for, or that have nothing to say.
_QUIET = re.compile(
    r"(log.*|.*tlds?|public-suffix-list|outbound\.bounce_message.*|http\.ini|watch\.ini|redis\.ini|results\.ini"
    r"|.*\.timeout|dhparams\.pem|graceful_shutdown|deny_includes_uuid|connection_close_message|smtpgreeting|ehlo_.*"
    r"|tls_.*\.pem|.*\.pem|dkim_key_gen\.sh|plugin_timeout|cluster_modules|queue_dir|host_list_anti_spoof|me\.sample)"
)
#: Files that Haraka itself reads, whatever plugins there are.
_OF_HARAKA = re.compile(
    r"(smtp|outbound|connection|tls|haraka|plugins|host_list|databytes|max_.*|header_hide_version|strict_rfc1869"
    r"|banner_includes_uuid|internalcmd_key|inactivity_timeout|message_size|lmtp|relay.*|xclient.*|haproxy.*"
    r"|early_talker.*|tarpit.*|outbound\..*)(\..*)?"
)
#: Folders that are read with their files.
_FOLDERS = frozenset({"dkim", "tls"})
_NOTHING = frozenset({"", "false", "no", "0", "off", "disabled"})
#: Whose lines are those of a file of ours, or are told each by itself.
_IN_FILES = frozenset({("auth_flat_file.ini", "users")})


def tell_rest(haraka: Haraka, plugins: list[str]) -> None:
    """Note every plugin that is switched on, every file, and every line of an ini file that has been read, of which
    nothing tells yet."""
    for plugin in dict.fromkeys(plugins):
        _plugin(haraka, plugin)
    for path in sorted(haraka.folder.iterdir()):
        if path.is_dir():
            if path.name not in _FOLDERS:
                text = "folders within config are read by plugins of your own"
                haraka.draft.leave("missing", f"{path.name}/", text, "See what reads it")
        elif path.name not in haraka.read:
            _file(haraka, path.name, plugins)
    said = " ".join(text for one in haraka.draft.sections for text in (*one.origins.values(), *one.comments))
    said = " ".join([said, *(one.setting for one in haraka.draft.leftovers)]) + " "
    for ini in haraka.inis.values():
        _lines(haraka, ini, said)


def _plugin(haraka: Haraka, plugin: str) -> None:
    leave = haraka.draft.leave
    if plugin in _COVERED:
        leave("covered", f"plugin {plugin}", f"{_COVERED[plugin]} stands for it")
    elif plugin in PLUGINS:
        leave("covered", f"plugin {plugin}", "a filter stands for it, or what is said of it above")
    elif plugin.startswith(("rcpt_to.", "auth/", "auth-")):
        leave("covered", f"plugin {plugin}", "see [recipients] and [auth], and what is said of it above")
    else:
        advice = MISSING.get(plugin, "A filter of your own can do it: docs/writing-a-filter.md")
        leave("missing", f"plugin {plugin}", "there is nothing of that name", advice)


def _file(haraka: Haraka, name: str, plugins: list[str]) -> None:
    stem = name.partition(".")[0]
    if _QUIET.fullmatch(name):
        haraka.draft.leave("covered", name, "something else stands for it, or it is about the inside of Haraka")
    elif _OF_HARAKA.fullmatch(name) or any(stem in plugin for plugin in plugins):
        haraka.draft.leave("missing", name, "the import does not know it", "Look at what it sets")
    else:
        haraka.draft.leave("covered", name, "no plugin that is switched on reads it")


def _lines(haraka: Haraka, ini: Ini, said: str) -> None:
    """Each line of a file that has been read: what nobody asks for is not there, and what came to nothing is told."""
    for section, values in ini.sections.items():
        if (ini.name, section) in _IN_FILES:
            continue
        for key, found in values.items():
            origin = ini.origin(key, section)
            if re.search(rf"{re.escape(origin)}(?![\w.-])", said):
                continue
            if (section, key) not in ini.asked and f"{ini.name} [{section}]" not in said:
                weight: Weight = "covered" if found[-1].lower() in _NOTHING else "missing"
                was = as_it_was(origin, ", ".join(found))
                haraka.draft.leave(weight, origin, "the import does not know it", was)
            else:
                text = "it has been read: it has its part in the file, or nothing else makes it count"
                haraka.draft.leave("covered", origin, text)
