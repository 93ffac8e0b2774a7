"""Settings are refused with what is allowed and which flag it was."""

import pytest

from server.errors import SettingsError
from server.settings import read_settings


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("https://beat.example.org", "https://beat.example.org"),
        ("https://beat.example.org:8443/", "https://beat.example.org:8443"),
        ("http://[2001:db8::1]:8080", "http://[2001:db8::1]:8080"),
        ("", None),
    ],
)
def test_a_public_url_is_a_scheme_and_a_host(given, meant):
    assert read_settings({"public_url": given}).public_url == meant


@pytest.mark.parametrize(
    "given",
    [
        *("beat.example.org", "ftp://beat.example.org", "https://", "https:///x"),
        *("https://example.org/offbeat", "https://example.org/?a", "https://example.org/#a", "https://a:b@example.org"),
    ],
)
def test_a_public_url_below_a_path_is_refused_at_the_start(given):
    with pytest.raises(SettingsError) as refused:
        read_settings({"public_url": given})
    assert "--public-url (OFFBEAT_PUBLIC_URL)" in str(refused.value)
    if "example.org/offbeat" in given:
        assert "https://offbeat.example.org" in str(refused.value), "it says what to do"
