"""IPv4 addresses that are written as IPv6."""

from ipaddress import ip_address

import pytest

from offbeat_server.common.ip_address import unmapped


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::ffff:0.0.0.0", "0.0.0.0"),
        ("10.0.0.1", "10.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("::1", "::1"),
        ("::", "::"),
        ("::10.0.0.1", "::a00:1"),
        ("64:ff9b::10.0.0.1", "64:ff9b::a00:1"),
    ],
)
def test_only_mapped_addresses_change(address: str, expected: str) -> None:
    assert unmapped(ip_address(address)) == ip_address(expected)
