"""`make bench`: messages accepted, made durable and delivered, per second, side by side in one run.

Every system does the same work on this machine: a client sends messages over a number of connections, the system
makes each durable and delivers it to smtp-sink. The clock runs from the first connection until the sink has taken
the last message. The systems take turns, round by round; a figure is the median of the rounds, and only ratios
within one run mean anything. Then the same at a steady rate, for how long a client waits until its message is
accepted; and, with --tls, new sessions and messages under TLS. See bench/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from parts import Sink, folder, missing

from bench import api, scanners
from bench.inbound import measure
from bench.inline import start_inline
from bench.scanner_systems import NEEDED
from bench.systems import start
from bench.tables import as_markdown, as_text, detail, summary
from bench.works import Row, Wanted, chosen


def _sizes(text: str) -> list[int]:
    return [round(float(size) * 1024) for size in text.split(",")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--messages", type=int, default=3000, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=_sizes, default=_sizes("4,10,100"), help="of messages, in KiB: 4,10,100")
    parser.add_argument("--connections", type=int, default=20, help="of the client at one time")
    parser.add_argument("--sessions", choices=["one", "many", "both"], default="both", help="messages a connection")
    parser.add_argument("--reuse", action="store_const", const="many", dest="sessions", help="as --sessions many")
    parser.add_argument("--rate", type=float, default=100.0, help="steady, for the wait; 0: not measured")
    parser.add_argument("--workers", type=int, default=2, help="of a second mailgate; 1: none")
    parser.add_argument("--tls", action="store_true", help="the same under TLS too, for mailgate and Postfix")
    parser.add_argument("--only", action="append", help="mailgate, workers, postfix, haraka or sink")
    parser.add_argument("--inline", action="store_true", help="only mail that is not queued, beside smtpd_proxy_filter")
    parser.add_argument("--inbound", action="store_true", help="only what judging inbound mail costs, with slow DNS")
    parser.add_argument("--scanners", action="store_true", help="only mail that clamd and rspamd look at")
    parser.add_argument("--api", action="store_true", help="only mail handed in by HTTP, beside SMTP")
    parser.add_argument("--recipients", type=int, default=0, help="with --api: only one call for so many")
    parser.add_argument("--markdown", action="store_true", help="print the figures for a page, too")
    return parser.parse_args()


def main() -> int:
    """Run the bench; 2 where what it needs is not installed."""
    options = _options()
    absent = missing("smtp-source", "smtp-sink", "postfix", *(NEEDED if options.scanners else ()))
    if absent:
        more = " clamav-daemon clamav-milter rspamd" if options.scanners else ""
        print(f"the bench needs {', '.join(absent)} (Debian: apt-get install postfix{more})")
        return 2
    ways = {"one": (False,), "many": (True,), "both": (False, True)}[options.sessions]
    wanted = Wanted(options.messages, options.sizes, options.connections, ways, options.rate, options.tls)
    measured = []
    with folder("bench") as base, contextlib.ExitStack() as stack:
        sink = Sink(base / "sink")
        stack.enter_context(sink)
        if options.api and options.recipients:
            print(api.measure_one_call(base, sink, options.recipients))
            return 0
        if options.api:
            print(
                api.measure(base, sink, messages=options.messages, rounds=options.rounds, clients=options.connections)
            )
            return 0
        if options.inbound:
            print(measure(base, sink, messages=min(options.messages, 1000), connections=options.connections))
            return 0
        if options.scanners:
            messages, rate = min(options.messages, 400), min(options.rate, 20.0)
            scanners.measure(base, sink, scanners.Asked(messages, options.rounds, options.connections, ways, rate))
            return 0
        systems = (
            start_inline(base, sink, stack, connections=options.connections)
            if options.inline
            else start(
                base,
                sink,
                options.only,
                stack,
                connections=options.connections,
                tls=options.tls,
                workers=options.workers,
            )
        )
        for work in chosen(wanted):
            rows = [Row(system) for system in systems if work.suits(system)]
            for number in range(options.rounds + 1):
                for row in rows:
                    row.measure(work, sink)
                    if number == 0:  # the first round warms up
                        row.forget()
            measured.append((work, rows))
            print(f"{work.title}\n{as_text(detail(work, rows))}\n", flush=True)
    for title, table in summary(measured):
        print(f"{title}\n{as_text(table)}\n")
        if options.markdown:
            print(f"{as_markdown(table)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
