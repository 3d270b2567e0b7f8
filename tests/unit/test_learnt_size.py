"""What a listener offers follows what next hops have said of their sizes."""

from __future__ import annotations

from functools import partial

from twisted.internet.task import Clock

from mailgate.config.schema import ListenerSection
from mailgate.relay.sizes import LearntSizes
from mailgate.smtp.offers import Offers, State

STRANGER = State(is_tls=False, can_bind=False, has_certificate=False, may_xclient=False, may_xforward=False)


def test_the_offer_follows_what_is_learnt() -> None:
    section = ListenerSection(name="mx", endpoints=["tcp:25"], pipeline="in", size_of=["exchange"])
    sizes = LearntSizes(Clock().seconds)
    limit = partial(sizes.limit, section.size_of, section.max_message_size)
    offers = Offers("mx.example.org", section, has_tls=False, max_size=limit)
    assert b"SIZE 52428800\r\n" in offers.to(STRANGER, 0.0).reply
    sizes.learn("exchange", "ex1", 37748736)
    assert b"SIZE 37732352\r\n" in offers.to(STRANGER, 0.0).reply
    assert offers.max_size() == 37732352
    sizes.learn("exchange", "ex1", 0)
    assert b"SIZE 52428800\r\n" in offers.to(STRANGER, 0.0).reply


def test_without_anything_to_learn_it_is_the_listeners() -> None:
    values = {"name": "mx", "endpoints": ["tcp:25"], "pipeline": "in", "max_message_size": "1MiB"}
    section = ListenerSection.model_validate(values)
    offers = Offers("mx.example.org", section, has_tls=False)
    assert (offers.max_size(), b"SIZE 1048576\r\n" in offers.to(STRANGER, 0.0).reply) == (1_048_576, True)
