"""IP addresses and networks of both versions."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network


def unmapped(address: IpAddress) -> IpAddress:
    """The IPv4 address that an IPv4-mapped IPv6 address stands for (::ffff:10.0.0.1 is 10.0.0.1); else the same.

    A socket that takes IPv4 and IPv6 shows IPv4 clients as mapped addresses.
    """
    return getattr(address, "ipv4_mapped", None) or address
