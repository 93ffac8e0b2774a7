"""Names and values as they stand in a query string or a form: `name=value&name=value`, percent-encoded.

The standard library's parser costs 6 µs for `status=start&run=17`, more than the rest of reading such a ping; most
queries hold neither `%` nor `+`, and then two `str` methods are enough.
"""

from urllib.parse import unquote_to_bytes


def read_pairs(text: str, errors: str = "replace") -> list[tuple[str, str]]:
    """All pairs in their order; a name without `=` has the value "".

    `errors="strict"` raises UnicodeDecodeError where the text is not UTF-8; otherwise U+FFFD stands for what is not.
    """
    if "%" in text or "+" in text or not text.isascii():
        return [
            (decode(name.replace("+", " "), errors), decode(value.replace("+", " "), errors))
            for name, _, value in (piece.partition("=") for piece in text.split("&"))
            if name
        ]
    return [(name, value) for name, _, value in [piece.partition("=") for piece in text.split("&")] if name]


def read_values(text: str, errors: str = "replace") -> dict[str, str]:
    """The pairs by name; of a repeated name the last."""
    return dict(read_pairs(text, errors))


def decode(text: str, errors: str = "replace") -> str:
    """A percent-encoded piece of a path or a query as text. `+` stands for itself."""
    if "%" not in text and text.isascii():
        return text
    return unquote_to_bytes(text.encode("utf-8", "surrogatepass")).decode("utf-8", errors)
