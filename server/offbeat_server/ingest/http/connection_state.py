"""The states of one connection of the fast HTTP server, and every transition between them.

`TRANSITIONS` is the whole state machine. docs/development/architecture.md has it as a diagram, which a test compares
with the table. Whether reading or writing is paused is no part of the state: see `flow_control.py`.
"""

from enum import IntEnum

# IntEnum, because the hash of a plain Enum is a Python function: it makes a transition cost 0.4 instead of 0.1 µs.
# On Python 3.11 an attribute of an enum class costs 0.2 µs, a name of a module 0.02: so the hot path compares with the
# names that `connection.py` gives to the members.


class ConnectionState(IntEnum):
    """The state of a connection."""

    NEW = 1
    """The listener has not decided yet whether there is room for the connection."""
    READING_HEADS = 2
    """Requests are read and answered. Part of a head may have arrived; answers may be pending."""
    READING_BODY = 3
    """Part of a request's body has not arrived. Answers of earlier requests may be pending."""
    FINISHING = 4
    """The last request is read, answers are pending. Further bytes are ignored. After the last answer it closes."""
    LINGERING = 5
    """The last answer is written, but its request's body was not read whole: the rest is read and ignored for a while.
    Otherwise the kernel would reset the connection, and the client could lose the answer."""
    HANDING_OVER = 6
    """A request for aiohttp is kept, and reading is paused, until the answers of earlier requests are written."""
    HANDED_OVER = 7
    """aiohttp has the connection. This end state has no events."""
    CLOSING = 8
    """The transport sends the bytes that it has, then closes. Nothing is read or answered."""
    CLOSED = 9
    """The connection is gone. This end state has no events."""


class ConnectionEvent(IntEnum):
    """An event in the life of a connection. A request that leaves the state as it is, or a pause, is no event."""

    ADMITTED = 1
    """The listener has room for the connection."""
    TURNED_AWAY = 2
    """The listener has no room, or stops."""
    BODY_BEGINS = 3
    """A head was read, and its body has not arrived whole."""
    BODY_ENDS = 4
    """The rest of the body has arrived, or its time is over and it is read without the rest."""
    LAST_REQUEST = 5
    """The answer to the request that was read last closes the connection."""
    INPUT_ENDS = 6
    """The client has closed its sending side while answers are pending."""
    LINGER = 7
    """The last answer is written, and part of its request's body is still to come."""
    FOREIGN_REQUEST = 8
    """A request arrived that aiohttp has to answer."""
    HAND_OVER = 9
    """The answers of earlier requests are written, so aiohttp gets the connection."""
    CLOSE = 10
    """The last answer is written, the client has closed its side, the time is over, or the server stops."""
    LOST = 11
    """The transport is closed, by either side."""


TRANSITIONS: dict[ConnectionState, dict[ConnectionEvent, ConnectionState]] = {
    ConnectionState.NEW: {
        ConnectionEvent.ADMITTED: ConnectionState.READING_HEADS,
        ConnectionEvent.TURNED_AWAY: ConnectionState.CLOSING,
    },
    ConnectionState.READING_HEADS: {
        ConnectionEvent.BODY_BEGINS: ConnectionState.READING_BODY,
        ConnectionEvent.LAST_REQUEST: ConnectionState.FINISHING,
        ConnectionEvent.INPUT_ENDS: ConnectionState.FINISHING,
        ConnectionEvent.FOREIGN_REQUEST: ConnectionState.HANDING_OVER,
        ConnectionEvent.CLOSE: ConnectionState.CLOSING,
        ConnectionEvent.LOST: ConnectionState.CLOSED,
    },
    ConnectionState.READING_BODY: {
        ConnectionEvent.BODY_ENDS: ConnectionState.READING_HEADS,
        ConnectionEvent.LAST_REQUEST: ConnectionState.FINISHING,
        ConnectionEvent.INPUT_ENDS: ConnectionState.FINISHING,
        ConnectionEvent.CLOSE: ConnectionState.CLOSING,
        ConnectionEvent.LOST: ConnectionState.CLOSED,
    },
    ConnectionState.FINISHING: {
        ConnectionEvent.INPUT_ENDS: ConnectionState.FINISHING,
        ConnectionEvent.LINGER: ConnectionState.LINGERING,
        ConnectionEvent.CLOSE: ConnectionState.CLOSING,
        ConnectionEvent.LOST: ConnectionState.CLOSED,
    },
    ConnectionState.LINGERING: {
        ConnectionEvent.CLOSE: ConnectionState.CLOSING,
        ConnectionEvent.LOST: ConnectionState.CLOSED,
    },
    ConnectionState.HANDING_OVER: {
        ConnectionEvent.HAND_OVER: ConnectionState.HANDED_OVER,
        ConnectionEvent.CLOSE: ConnectionState.CLOSING,
        ConnectionEvent.LOST: ConnectionState.CLOSED,
    },
    ConnectionState.HANDED_OVER: {},
    ConnectionState.CLOSING: {
        ConnectionEvent.LOST: ConnectionState.CLOSED,
    },
    ConnectionState.CLOSED: {},
}


def next_state(state: ConnectionState, event: ConnectionEvent) -> ConnectionState:
    """Return the state after the event. Raises AssertionError if the table does not allow the event in this state."""
    row = TRANSITIONS[state]
    assert event in row, f"{event.name} in state {state.name}"
    return row[event]
