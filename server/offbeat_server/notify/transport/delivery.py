"""Types that all transports share: the request of a delivery, its answer, and its failures."""

from typing import Literal, NamedTuple

from offbeat_server.common.errors import OffbeatError

MESSAGE_CHARS_MAX = 500


class DeliveryError(OffbeatError):
    """It did not arrive, or may not have. `permanent`: the same message will never be taken.

    `retry_after_s` is the receiver's wish, `answer` the body of its answer. The message is for people and holds no
    secret; the receiver's part of it becomes one line of printable characters.
    """

    def __init__(
        self, message: str, *, permanent: bool = False, retry_after_s: float | None = None, answer: bytes = b""
    ) -> None:
        super().__init__("".join(char for char in " ".join(message.split()) if char.isprintable())[:MESSAGE_CHARS_MAX])
        self.permanent = permanent
        self.retry_after_s = retry_after_s
        self.answer = answer


class DeliveryReply(NamedTuple):
    """The answer of a receiver: at most 64 KiB of it."""

    status: int
    body: bytes


class MailServer(NamedTuple):
    """Where mail is handed in. `guarded`: its address must be a public one (it was named by a channel)."""

    host: str
    port: int
    security: Literal["tls", "starttls", "none"]
    username: str | None
    password: str | None
    sender: str | None
    guarded: bool
