"""Our signature under what the gateway writes itself: by the keys of a filter dkim-sign (`gateway.sign_with`)."""

from __future__ import annotations

from twisted.logger import Logger

from mailgate.config.load import ConfigError, Loaded
from mailgate.filters.dkim_sign import DkimSign, Options, SigningServices

__all__ = ["OwnSignature", "own_signature"]

_log = Logger()


class OwnSignature:
    """Signs octets of a mail. What cannot be signed now goes without, and the log says so: a report that is late, or
    never comes, is worse than one that is not believed."""

    def __init__(self, options: Options, services: SigningServices) -> None:
        """ValueError where a key cannot be read, or none is for the domain of our hostname."""
        self._filter = DkimSign(options, services)
        if not self._filter.has_keys_for(services.hostname.lower()):
            raise ValueError(f"it has no keys of {services.hostname}, nor of a domain above it")

    def __call__(self, octets: bytes) -> bytes:
        """The mail with its signatures on top."""
        try:
            return self._filter.signed(octets)
        except Exception as error:
            _log.error("a mail of our own goes without a signature: {error}", error=str(error))
            return octets


def own_signature(loaded: Loaded, services: SigningServices) -> OwnSignature | None:
    """That of a configuration; None where there is none. ConfigError where it cannot be made."""
    name, key = loaded.config.gateway.sign_with, ("gateway", "sign_with")
    if name is None:
        return None
    options = loaded.options.get(name)
    if not isinstance(options, Options):
        raise ConfigError((loaded.error(key, f'there is no filter "{name}" of kind dkim-sign'),))
    try:
        return OwnSignature(options, services)
    except ValueError as error:
        raise ConfigError((loaded.error(key, f"{name}: {error}"),)) from error
