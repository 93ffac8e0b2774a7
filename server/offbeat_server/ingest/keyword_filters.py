"""A monitor's own rules for a ping, applied before it is stored: POST only, and keywords in its message.

Healthchecks has both (hc/api/views.py `ping`, 29b5ec25): a check that takes only POST ignores other methods, so that a
link preview that opens the address is no sign of life; and words in the body decide over what the address says, in this
order: failure, success, start, then the default. An ignored ping is stored as `log`. The whole body is searched for the
words: the word for the failure may stand in the part of a long message that is not kept.
"""

from offbeat_server.engine.model.definition import Keywords
from offbeat_server.engine.model.ping import Ping, Signal
from offbeat_server.ingest.key_index import PingRules
from offbeat_server.ingest.protocols.parsing.message import is_cut


def filtered(ping: Ping, method: str, rules: PingRules, body: bytes = b"") -> Ping:
    """The ping as a monitor with these rules takes it; `body` is where its message came from, if from a body."""
    if rules.post_only and method != "POST":
        return ping._replace(signal="log")
    if rules.keywords is None:
        return ping
    text = ping.message or ""
    signal = _signal_by_keywords(
        ping, body.decode("utf-8", "replace") if body and is_cut(text) else text, rules.keywords
    )
    return ping if signal == ping.signal else ping._replace(signal=signal)


def _signal_by_keywords(ping: Ping, text: str, keywords: Keywords) -> Signal:
    by_signal: tuple[tuple[Signal, tuple[str, ...]], ...] = (
        ("fail", keywords.fail),
        ("success", keywords.success),
        ("start", keywords.start),
    )
    for signal, of_signal in by_signal:
        if any(keyword in text for keyword in of_signal):
            return signal
    if keywords.default == "fail":
        return "fail"
    return "log" if keywords.default == "ignore" else ping.signal
