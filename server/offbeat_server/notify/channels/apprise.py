"""A hundred more services by the apprise library, where the operator has installed it (`offbeat-server[apprise]`).

It does its own network traffic in threads. So it runs in few threads of its own, under a hard time-out, and the same
guard against private addresses checks every connection that those threads make (see transport/thread_pool.py). Of an
answer it reads the first 64 KiB, as we do. An answer that arrives slowly keeps its thread. If all threads have such an
answer, apprise stands still, and nothing else.

Source: github.com/caronc/apprise, Apprise.instantiate and NotifyBase.notify: False where it failed, without a reason.
"""

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Final
from urllib.parse import parse_qsl

import orjson
from pydantic import AfterValidator, Field

from offbeat_server.notify.channel import Channel, Message
from offbeat_server.notify.transport.delivery import DeliveryError
from offbeat_server.notify.transport.http_client import REPLY_BYTES_MAX, Transport
from offbeat_server.notify.transport.thread_pool import is_guarded

_TYPES = {"🔴": "failure", "🟠": "warning", "🟢": "success", "🔵": "info"}
# Services that speak HTTP to another host. Not among them: what acts on the server's own machine (syslog, dbus, gio),
# reads files of it (fcm, vapid, PGP keys of mailto), or speaks another protocol; for mail there is the kind `email`.
SCHEMES: Final = frozenset(
    """
    46elks apprise apprises atalk azure bark barks betterstack bluesky brevo bsky bulksms bulkvs burstsms
    chanify clickatell clicksend cliq cm d7sms dapnet dingtalk discord dot eight00com elks emby embys enigma2
    enigma2s evolution evolutions exotel feishu firehydrant flock flowtriq flowtriqs fluxer fluxers form forms
    freemobile gchat github goalert goalerts gorush gorushs gotify gotifys groundmail groupme guilded gupshup
    hassio hassios https httpsms humhub humhubs ifttt ilert incidentio infobip jellyfin jellyfins jira join json
    jsons kakao kakaotalk kaleyra kavenegar klr kodi kodis kook kudosity kumulos lametric lametrics lark lauther
    lfg line mailersend mailgun mastodon mastodons matrix matrixs misskey misskeys mmost mmosts mobilemessage
    mobilemsg msg91 msgbird ncloud nclouds nctalk nctalks nexmo notica noticas notifiarr notifico notificos
    notifyre ntfy ntfys o365 octopush onebot onebots onesignal opsgenie pagerduty pagertree parsep parseps pbul
    pinglet pinglets pingram pjet pjets plivo postmark pover prowl psafer psafers push pushdeer pushdeers pushed
    pushme pushplus pushward pushy qq reddit resend revolt ringc rocket rockets ryver schan sendgrid sendpulse
    serwersms ses seven sfr signal signalgrid signals signl4 simplepush sinch slack smsc smseagle smseagles
    smsmanager smsmgr smstunnel smtp2go sns sparkpost spike splunk spugpush spush squadcast stackfield strmlabs
    synology synologys telesign telnyx tgram threema toot toots trigv trigvs tweet twilio twist twitter viber
    victorops voipms vonage webex wechat wecom wecombot whapi whatsapp workflow workflows wpush wxpusher wxteams
    x xbmc xbmcs xmatters xml xmls youlmk zalo zcliq zohocliq zoom zulip
    """.split()  # noqa: SIM905
)
# Parameters that name a file of the server: it would be opened, and its content sent or shown in an error.
FILE_PARAMETERS: Final = frozenset(("attach", "keyfile", "pgp", "pgpkey", "pgpprv", "pgppub", "subfile", "template"))


def _check(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if not separator or not scheme:
        raise ValueError("must be an address that apprise knows, such as pover://user@token")
    if scheme.lower() not in SCHEMES:
        raise ValueError(f"{scheme}:// is not one of the services that are allowed here: see docs/apprise.md")
    for name, given in parse_qsl(rest.partition("?")[2], keep_blank_values=True, separator="&"):
        # Apprise takes `+name`, `-name` and `:name` too, in any case.
        if name.strip().lstrip("+-:").lower() in FILE_PARAMETERS or given.strip().lower().startswith("file:"):
            raise ValueError(f"the parameter {name} may not be used: it can name a file of the server")
    return value


def installed() -> bool:
    """Whether the optional library is there."""
    return find_spec("apprise") is not None


class Apprise(Channel):
    """Hands the text to every address."""

    kind: ClassVar[str] = "apprise"
    hidden: ClassVar[frozenset[str]] = frozenset(("urls",))
    per_minute_default: ClassVar[int] = 20

    urls: Annotated[
        tuple[Annotated[str, Field(max_length=2_000), AfterValidator(_check)], ...],
        Field(min_length=1, max_length=10, description="Addresses of the apprise library."),
    ]

    def compose(self, message: Message) -> bytes:
        rendered = message.rendered
        return orjson.dumps({"title": rendered.title, "body": rendered.text, "type": _TYPES[rendered.symbol]})

    async def send(self, message: Message, body: bytes, out: Transport) -> None:
        if not installed():
            raise DeliveryError("apprise is not installed: pip install 'offbeat-server[apprise]'", permanent=True)
        if not await out.in_thread(_notify, self.urls, orjson.loads(body)):
            raise DeliveryError("apprise could not deliver to all of its addresses")


def _notify(urls: tuple[str, ...], content: dict[str, str]) -> bool:
    """Send the message to every address in turn; False if one of them failed.

    Each service is called directly, because Apprise.notify would use more threads.
    """
    import apprise

    _bound_answers()
    arrived = True
    for url in urls:
        service = apprise.Apprise.instantiate(url, suppress_exceptions=True)
        if service is None:
            raise DeliveryError("apprise does not understand one of the addresses", permanent=True)
        arrived &= bool(
            service.notify(
                title=content["title"], body=content["body"], notify_type=apprise.NotifyType(content["type"])
            )
        )
    return arrived


@cache
def _bound_answers() -> None:
    """Requests reads an answer whole before anybody has asked for it, be it ten gigabytes or what unpacks to that.

    Only in the guarded threads: other code of the process that uses requests gets its answers whole.
    """
    import requests

    unbounded = requests.Response.iter_content

    def first(self: Any, chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[Any]:
        if not is_guarded():
            yield from unbounded(self, chunk_size, decode_unicode)
            return
        left = REPLY_BYTES_MAX
        for chunk in unbounded(self, chunk_size, decode_unicode):
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                self.raw.close()
                return

    requests.Response.iter_content = first  # type: ignore[method-assign]
