"""Proxy variables work as they do for curl."""

import pytest

from connector import proxies
from connector.config import load
from connector.errors import ConfigurationError

GRAPH = "https://graph.microsoft.com/v1.0"


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("proxy.example:3128", "http://proxy.example:3128"),
        ("proxy.example", "http://proxy.example:1080"),
        ("HTTP://proxy.example:3128/", "http://proxy.example:3128"),
        ("https://proxy.example", "https://proxy.example:443"),
        ("[::1]:3128", "http://[::1]:3128"),
        ("http://[2001:db8::1]:8080", "http://[2001:db8::1]:8080"),
        ("user:pass@10.0.0.1:3128", "http://10.0.0.1:3128"),
        (" http://proxy.example:3128 ", "http://proxy.example:3128"),
        ("localhost:3128", "http://localhost:3128"),
    ],
)
def test_proxy_variable_accepts_the_forms_that_curl_accepts(value: str, address: str) -> None:
    chosen = proxies.choose(GRAPH, {"HTTPS_PROXY": value})
    assert chosen is not None
    assert chosen.address == address


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({"https_proxy": "a:1", "HTTPS_PROXY": "b:2"}, "https_proxy"),
        ({"https_proxy": "", "HTTPS_PROXY": "b:2"}, "HTTPS_PROXY"),
        ({"HTTPS_PROXY": "b:2", "all_proxy": "c:3"}, "HTTPS_PROXY"),
        ({"all_proxy": "c:3", "ALL_PROXY": "d:4"}, "all_proxy"),
        ({"ALL_PROXY": "d:4"}, "ALL_PROXY"),
        ({"HTTP_PROXY": "e:5", "http_proxy": "f:6"}, None),
        ({"HTTPS_PROXY": "  "}, None),
        ({}, None),
    ],
)
def test_first_non_empty_proxy_variable_is_used(environ: dict[str, str], variable: str | None) -> None:
    chosen = proxies.choose(GRAPH, environ)
    assert (chosen.variable if chosen else None) == variable


def test_http_urls_use_http_proxy_variables() -> None:
    chosen = proxies.choose("http://registry:8081", {"HTTP_PROXY": "e:5", "HTTPS_PROXY": "b:2"})
    assert chosen is not None
    assert chosen.variable == "HTTP_PROXY"


@pytest.mark.parametrize(
    ("url", "exceptions", "direct"),
    [
        (GRAPH, "*", True),
        (GRAPH, "graph.microsoft.com", True),
        (GRAPH, "GRAPH.Microsoft.COM", True),
        (GRAPH, "microsoft.com", True),
        (GRAPH, ".microsoft.com", True),
        (GRAPH, "*.microsoft.com", True),
        (GRAPH, "a.example, *.microsoft.com", True),
        (GRAPH, "a.example *.microsoft.com", True),
        (GRAPH, "graph.microsoft.com:443", True),
        (GRAPH, "graph.microsoft.com:8443", False),
        (GRAPH, "soft.com", False),
        (GRAPH, "graph.microsoft.com.example", False),
        (GRAPH, "10.0.0.0/8", False),
        (GRAPH, ",", False),
        (GRAPH, ".", False),
        ("https://microsoft.com", ".microsoft.com", True),
        ("https://graph.microsoft.com./", "microsoft.com", True),
        ("https://graph.microsoft.com/", "microsoft.com.", True),
        ("https://10.1.2.3:8443", "10.0.0.0/8", True),
        ("https://10.1.2.3:8443", "10.1.2.3", True),
        ("https://10.1.2.3:8443", "10.1.2.3:8443", True),
        ("https://10.1.2.3:8443", "10.1.2.3:443", False),
        ("https://10.1.2.3:8443", "10.1.2.0/30", True),
        ("https://10.1.2.3:8443", "10.1.2.3/32", True),
        ("https://10.1.2.3:8443", "10.1.2.4/32", False),
        ("https://10.1.2.3:8443", "10.0.0.0/99", False),
        ("https://10.1.2.3:8443", "2.3", False),
        ("https://110.1.2.3:8443", "10.1.2.3", False),
        ("https://[::1]:8443", "[::1]", True),
        ("https://[::1]:8443", "::1", True),
        ("https://[::1]:8443", "[::1]:8443", True),
        ("https://[::1]:8443", "[::1]:443", False),
        ("https://[::1]:8443", "0:0:0:0:0:0:0:1", True),
        ("https://[::1]:8443", "::/64", True),
        ("https://[2001:db8::7]", "2001:db8::/32", True),
        ("https://[2001:db8::7]", "[2001:db8::]/32", True),
        ("https://[2001:db9::7]", "2001:db8::/32", False),
        ("https://[::ffff:10.1.2.3]", "10.0.0.0/8", True),
        ("https://[::1]:8443", "127.0.0.1", False),
        ("https://localhost:8443", "localhost", True),
    ],
)
def test_no_proxy_excludes_names_addresses_and_ranges(url: str, exceptions: str, direct: bool) -> None:  # noqa: FBT001
    for name in ("no_proxy", "NO_PROXY"):
        assert (proxies.choose(url, {"HTTPS_PROXY": "proxy:3128", name: exceptions}) is None) == direct


@pytest.mark.parametrize(
    "value",
    [
        "socks5://proxy:1080",
        "socks5h://proxy:1080",
        "ftp://proxy",
        "http://",
        "http://proxy:port",
        "http://proxy:70000",
        "http://proxy:0",
        "http://[::1",
        "http://us%3Aer:hunter2@proxy:1",
    ],
)
def test_unusable_proxy_error_names_variable_but_no_password(value: str) -> None:
    with pytest.raises(proxies.UnusableProxyError) as raised:
        proxies.choose(GRAPH, {"HTTPS_PROXY": value})
    assert raised.value.variable == "HTTPS_PROXY"
    assert "hunter2" not in str(raised.value)
    assert ";" in str(raised.value)


def test_invalid_proxy_is_ignored_if_it_is_not_needed() -> None:
    assert proxies.choose(GRAPH, {"ALL_PROXY": "socks5://proxy", "NO_PROXY": "*"}) is None


def test_proxy_credentials_are_decoded_and_never_shown() -> None:
    proxy = proxies.choose(GRAPH, {"HTTPS_PROXY": "http://me:p%40ss%3A@proxy:3128"})
    assert proxy is not None
    assert (proxy.user, proxy.password) == ("me", "p@ss:")
    for text in (repr(proxy), proxy.address, proxy.refused(407), proxy.refused(403), proxy.unreachable("gone")):
        assert "p@ss" not in text
        assert "proxy" in text


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HTTPS_PROXY": "socks5://me:hunter2@proxy:1080"}, "HTTPS_PROXY: names a socks5:// proxy"),
        ({"all_proxy": "socks5h://proxy:1080"}, "all_proxy: names a socks5h:// proxy"),
        ({"HTTPS_PROXY": "http://proxy:no"}, "HTTPS_PROXY: is not the address of a proxy"),
        (
            {"https_proxy": "https://proxy", "CONNECTOR_SCHEMA_REGISTRY__URL": "https://registry:8081"},
            "https_proxy: names an https:// proxy, which cannot be used",
        ),
    ],
)
def test_configuration_with_an_unusable_proxy_is_refused(environ: dict[str, str], expected: str) -> None:
    tenant = {"AZURE_TENANT_ID": "11111111-1111-1111-1111-111111111111", "AZURE_CLIENT_ID": "a"}
    with pytest.raises(ConfigurationError) as raised:
        load(None, {**tenant, "AZURE_CLIENT_SECRET": "b", **environ})
    assert len(raised.value.problems) == 1
    assert expected in raised.value.problems[0]
    assert "hunter2" not in raised.value.problems[0]


def test_commands_that_do_not_use_graph_accept_an_unusable_proxy() -> None:
    environ = {"AZURE_TENANT_ID": "11111111-1111-1111-1111-111111111111", "HTTPS_PROXY": "socks5://proxy"}
    assert load(None, environ, contacts_graph=False).tenants
