"""IP addresses."""

from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address


def unmapped(address: Address) -> Address:
    """The IPv4 address that an IPv4-mapped IPv6 address stands for (::ffff:10.0.0.1 is 10.0.0.1); else the same.

    A socket that takes IPv4 and IPv6 shows IPv4 clients as mapped addresses.
    """
    return getattr(address, "ipv4_mapped", None) or address
