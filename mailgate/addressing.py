"""Who is asked about addresses and users: sources and authenticators. They outlive a reload that leaves them alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import cast

from mailgate.auth.checker import IAuthReactor
from mailgate.auth.guesses import Guesses
from mailgate.auth.portal import Authenticator, make_authenticator
from mailgate.auth.retired import close_all
from mailgate.backends.keeping import Source, Sources, close_sources, made_of
from mailgate.config.auth import FileAuth
from mailgate.config.load import ConfigError, Loaded
from mailgate.config.schema import AuthSection
from mailgate.recipients.build import DirectoryError, make_sources
from mailgate.recipients.source import ISource, SourceTools
from mailgate.rewriting.build import AliasError, make_alias_sources, make_sender_sources
from mailgate.rewriting.source import AliasSource, AliasTools
from mailgate.stores.lists import FileError

__all__ = ["alias_sources", "is_slow", "make_addressing", "make_slow", "make_users", "recipient_sources"]

#: Kinds of `[recipients.NAME]` and `[aliases.NAME]` that may take long to make: a program reads their tables. All that
#: they need of the reactor then is what time it is.
_SLOW = frozenset({"postfix"})


def is_slow(loaded: Loaded, known: Sources) -> bool:
    """Whether `make_addressing` may hold up whoever calls it, unless it is given what `make_slow` has made before."""
    config = loaded.config
    sections = [
        *((("recipients", name), one) for name, one in config.recipients.items()),
        *((("aliases", name), one) for name, one in config.aliases.items()),
    ]
    return any(one.kind in _SLOW and (key not in known or known[key].made_of != made_of(one)) for key, one in sections)


def make_slow(loaded: Loaded, tools: SourceTools, known: Sources) -> Sources:
    """Those of the sources that take long to make, for `make_addressing` to know. May be called in a thread."""
    return make_addressing(loaded, tools, known, _SLOW)


def make_addressing(
    loaded: Loaded,
    tools: SourceTools,
    known: Sources = MappingProxyType({}),
    kinds: Collection[str] | None = None,
) -> Sources:
    """What is made of `[recipients.NAME]`, `[aliases.NAME]` and `[senders.NAME]`, by ("recipients", NAME) and so on, or
    of recipients and aliases of these `kinds`; see `make_sources` and `make_alias_sources`. ConfigError where one
    cannot be made."""
    errors: list[str] = []
    alias_tools = AliasTools(tools.reactor, tools.events)
    recipients: Mapping[str, Source[ISource]] = {}
    aliases: Mapping[str, Source[AliasSource]] = {}
    senders: Mapping[str, Source[AliasSource]] = {}
    try:
        recipients = make_sources(loaded.config, tools, recipient_sources(known), kinds)
    except DirectoryError as error:
        errors += [loaded.error(key, text) for key, text in error.errors]
    try:
        aliases = make_alias_sources(loaded.config, alias_tools, alias_sources(known, "aliases"), kinds)
    except AliasError as error:
        errors += [loaded.error(key, text) for key, text in error.errors]
    try:
        if kinds is None:
            senders = make_sender_sources(loaded.config, alias_tools, alias_sources(known, "senders"))
    except AliasError as error:
        errors += [loaded.error(key, text) for key, text in error.errors]
    made: Sources = {
        **{("recipients", name): one for name, one in recipients.items()},
        **{("aliases", name): one for name, one in aliases.items()},
        **{("senders", name): one for name, one in senders.items()},
    }
    if errors:
        close_sources(one for key, one in made.items() if known.get(key) is not one)
        raise ConfigError(tuple(errors))
    return made


def recipient_sources(sources: Sources) -> dict[str, Source[ISource]]:
    """Those of the sections `[recipients.NAME]`."""
    return {name: cast("Source[ISource]", one) for (kind, name), one in sources.items() if kind == "recipients"}


def alias_sources(sources: Sources, wanted: str) -> dict[str, Source[AliasSource]]:
    """Those of the sections `[aliases.NAME]`, or `[senders.NAME]`."""
    return {name: cast("Source[AliasSource]", one) for (kind, name), one in sources.items() if kind == wanted}


def make_users(
    loaded: Loaded,
    reactor: IAuthReactor,
    known: Mapping[str, Authenticator] = MappingProxyType({}),
) -> dict[str, Authenticator]:
    """An authenticator for each [auth.NAME]; those `known` go on whose section, files and certificates are as they
    were when they were made.

    ConfigError where one cannot be made, because of what its files hold now as well.
    """
    config = loaded.config
    certificates = {print_: name for name, print_ in config.tls.client_fingerprints.items()}
    guesses = next((one.guesses for one in known.values()), None) or Guesses()
    users: dict[str, Authenticator] = {}
    for name, section in config.auth.items():
        now = (made_of(section), certificates)
        if name in known and known[name].made_of == now:
            users[name] = known[name]
            continue
        try:
            users[name] = make_authenticator(
                section, name=name, reactor=reactor, certificates=certificates, guesses=guesses, made_of=now
            )
        except ValueError as error:
            close_all(one for name, one in users.items() if known.get(name) is not one)
            raise ConfigError(_lines(loaded, name, section, error)) from error
    return users


def _lines(loaded: Loaded, name: str, section: AuthSection, error: ValueError) -> tuple[str, ...]:
    """The lines of ConfigError about a section that cannot be made."""
    if not isinstance(section, FileAuth):
        return (loaded.error(("auth", name), str(error)),)
    texts = error.errors if isinstance(error, FileError) else (str(error),)
    if isinstance(error.__cause__, FileNotFoundError):
        texts = (f"{section.path}: does not exist: make it with mailgate password",)
    return tuple(loaded.error(("auth", name, "path"), text) for text in texts)
