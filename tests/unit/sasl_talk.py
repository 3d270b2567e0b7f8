"""A client and a server of SASL that talk to each other, as SMTP would have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mailgate.wire.sasl import (
    Challenge,
    CramProof,
    Credentials,
    Failed,
    Malformed,
    NeedSecret,
    Password,
    ScramProof,
    ScramSecret,
    ServerMechanism,
    Step,
    Succeeded,
    Verify,
    decode_response,
    encode_response,
    server_mechanism,
)
from mailgate.wire.sasl_client import ClientMechanism

NAME, PASSWORD, TOKEN = "tim@example.com", "tanstaaf, tanstaaf = \u00e9", "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
SECRET = ScramSecret.derive(PASSWORD, b"0123456789abcdef", 4096)
BINDINGS = {"tls-exporter": b"E" * 32, "tls-server-end-point": b"P" * 32}


def counting() -> Callable[[int], bytes]:
    """Random octets that are not random."""
    state = iter(range(1, 10_000))
    return lambda size: next(state).to_bytes(size, "big")


def server(
    name: str,
    bindings: Mapping[str, bytes] | None = None,
    *,
    random_bytes: Callable[[int], bytes] | None = None,
    hostname: str = "mx.example.com",
) -> ServerMechanism:
    return server_mechanism(
        name,
        hostname=hostname,
        random_bytes=random_bytes or counting(),
        seconds=lambda: 697170952.7,
        scram_key=b"k" * 32,
        channel_bindings=bindings or {},
        iterations=4096,
    )


def is_tim(credentials: Credentials) -> bool:
    """Whether these credentials are Tim's."""
    match credentials:
        case Password(username, password):
            return username == NAME and password == PASSWORD and SECRET.matches(password)
        case CramProof(username):
            return username == NAME and credentials.matches(PASSWORD)
        case ScramProof(username):
            return username == NAME
        case _:
            return getattr(credentials, "token", TOKEN) == TOKEN and NAME in str(credentials)


def talk(client: ClientMechanism, server: ServerMechanism, *, send_initial: bool = True) -> Step | bool:
    """How it ended: a last step, or the outcome of `verified` where nothing was owed."""
    initial = client.initial if send_initial else None
    response = None if initial is None else decode_response(encode_response(initial, initial=True))
    is_prompted = initial is not None or client.initial is None
    while True:
        step = server.step(response)
        if isinstance(step, NeedSecret):
            step = server.secret(SECRET if step.username == NAME else None)
        elif isinstance(step, Verify):
            ok = is_tim(step.credentials)
            last = server.verified(ok)
            if last is None:
                return ok
            step = last
        if isinstance(step, Malformed | Failed | Succeeded):
            return step
        assert isinstance(step, Challenge)
        challenge = decode_response(encode_response(step.data))
        response = client.respond(challenge) if is_prompted else client.initial
        is_prompted = True
