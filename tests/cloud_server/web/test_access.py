"""Who may see the page: nobody without the password, by no other name, and nobody may change anything."""

from __future__ import annotations

import http.client
import re
import shutil
import ssl
import subprocess
import sys

import pytest

from cloud_server import config
from cloud_server.fleet.overview import Overview
from cloud_server.web import password
from cloud_server.web.logins import SESSION_S, Logins
from cloud_server.web.server import WebServer
from split_model.errors import ConfigError, MissingInputError, NotAllowedError

PAGES = ("/", "/server", "/statistics", "/bundles", "/devices/porch", "/events")


def test_the_page_behind_its_login(page):
    """One server for all of it: a start takes a second."""
    for path in PAGES:
        status, headers, _ = page.ask(path)
        assert (status, headers["location"]) == (303, "/login"), path
    page.cookie = "cloud-server-session=made-up"
    assert page.ask("/")[0] == 303
    page.cookie = ""

    status, headers, body = page.log_in("wrong password")
    assert (status, "set-cookie" in headers) == (403, False)
    assert "not the password" in body
    assert page.ask("/")[0] == 303

    status, headers, _ = page.log_in()
    assert status == 303
    assert {part.strip().lower() for part in headers["set-cookie"].split(";")[1:]} >= {
        "httponly",
        "samesite=strict",
    }
    for path in PAGES[:-1]:
        status, headers, body = page.ask(path)
        assert status == (404 if "porch" in path else 200), path
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert not re.search(r"<[^>]+ (style|on[a-z]+)=", body), path

    # By another name nothing is shown, whatever the cookie: a site whose name points here.
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "[", "127.0.0.1@evil.example"):
        assert page.ask("/", headers={"Host": host})[0] == 400, host
    assert page.ask("/", headers={"Host": f"localhost:{page.port}"})[0] == 200
    # No other site's form, no other method.
    assert page.log_in(Origin="http://evil.example")[0] == 400
    assert page.log_in(Origin="null")[0] == 400
    assert page.log_in(Origin=page.address)[0] == 303
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert page.ask("/", method=method)[0] in (400, 405), method
    assert page.ask("/", method="POST", body="a=b")[0] == 405

    kept = page.cookie
    assert page.ask("/logout", method="POST")[0] == 303
    assert page.cookie == kept
    assert page.ask("/")[0] == 303

    # Another password ends every session, without a restart.
    page.log_in()
    password.write(page.server.folder / "web.password", "another password")
    assert page.ask("/")[0] == 303
    assert page.log_in()[0] == 403
    assert page.log_in("another password")[0] == 303


def test_without_a_password_nobody_gets_in_and_the_page_says_what_to_do(page):
    (page.server.folder / "web.password").unlink()
    status, _, body = page.log_in()
    assert status == 503
    assert "cloud-server web password" in body
    assert page.ask("/healthz")[0] == 200
    assert page.ask("/readyz")[2] == "ready\n"


def test_guessing_is_slowed_down_until_the_time_has_passed(page):
    found: list[int] = []
    while not found or (found[-1] == 403 and len(found) < 60):  # a slow machine gives some back meanwhile
        found.append(page.log_in(f"guess number {len(found)}")[0])
    assert found[-1] == 429
    assert len(found) > 10
    assert "Too many attempts" in page.log_in("x" * 9000)[2]


def test_ten_passwords_may_be_wrong_at_once_and_one_in_six_seconds_after_that():
    logins = Logins()
    assert [logins.may_try(0.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert [logins.may_try(5.9), logins.may_try(6.5), logins.may_try(6.6)] == [False, True, False]
    assert [logins.may_try(10_000.0) for _ in range(12)] == [True] * 10 + [False] * 2


def test_metrics_want_the_token_or_a_session(page):
    assert page.ask("/metrics")[0] == 401
    for header in ("Bearer wrong", "Basic YTpi", "Bearer", "Bearer ", "Bearer a-token-for-prometheu"):
        assert page.ask("/metrics", headers={"Authorization": header})[0] == 401, header
    status, headers, body = page.ask("/metrics", headers={"Authorization": "Bearer a-token-for-prometheus"})
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert "cloud_server_requests_total" in body
    page.log_in()
    assert page.ask("/metrics")[0] == 200


def test_no_other_file_is_served(page):
    for name in ("../app.py", "..%2fapp.py", "style.css/../../app.py", "nothing.js", ""):
        assert page.ask(f"/static/{name}")[0] in (404, 303)
    assert page.ask("/static/style.css")[0] == 200


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl: tests/system/install-packages.sh")
def test_with_a_certificate_the_page_is_served_over_tls_and_the_cookie_stays_there(tmp_path, start):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "web.key", "-out", "web.crt",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    password.write(tmp_path / "web.password", "correct horse")
    keys = {"web_certificate": "web.crt", "web_certificate_key": "web.key"}
    server = start(web_listen="0.0.0.0:0", web_password="web.password", **keys)
    address = server.wait(lambda status: status.web).web
    assert address.startswith("https://0.0.0.0:")
    port = int(address.rpartition(":")[2])
    trusting = ssl.create_default_context(cafile=str(tmp_path / "web.crt"))
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=trusting)
    try:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/login", body="password=correct+horse", headers=form)
        answer = connection.getresponse()
        assert answer.status == 303
        assert "secure" in answer.getheader("set-cookie").lower().split("; ")
    finally:
        connection.close()
    plain = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    plain.request("GET", "/login")
    with pytest.raises((ConnectionError, http.client.HTTPException)):  # nothing without TLS
        plain.getresponse()
    plain.close()


def test_a_certificate_that_is_none_is_refused_at_the_start(tmp_path, config_file, model):
    (tmp_path / "web.crt").write_text("no certificate")
    (tmp_path / "web.key").write_text("no key")
    keys = {"web_certificate": "web.crt", "web_certificate_key": "web.key", "web_password": "web.password"}
    table = config.load(config_file(tmp_path, model, web_listen="127.0.0.1:0", **keys)).web
    with pytest.raises(ConfigError, match=r"web\.certificate"):
        WebServer(table, Overview(names=dict, status=lambda: None, clock=lambda: 0.0))


# --- the config --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"web_listen": "0.0.0.0:8480"}, "no TLS"),
        ({"web_listen": "192.0.2.1:8480"}, "no TLS"),
        ({"web_listen": "[::]:8480"}, "no TLS"),
        ({"web_listen": "hall.example:8480"}, "is not an IP address"),
        ({"web_listen": "8480"}, "is not an address"),
        ({"web_listen": "127.0.0.1:99999"}, "is not an address"),
        ({"web_certificate": "cert.pem"}, "go together"),
    ],
)
def test_what_others_could_read_on_the_way_is_refused(config_file, tmp_path, model, table, problem):
    path = config_file(tmp_path, model, web_password="web.password", **table)
    with pytest.raises(ConfigError, match=problem) as raised:
        config.load(path)
    assert str(path) in str(raised.value)
    assert raised.value.remedy


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:8480", "[::1]:8480", "127.1.2.3:80"])
def test_this_machine_needs_no_tls(config_file, tmp_path, model, listen):
    assert config.load(config_file(tmp_path, model, web_password="p", web_listen=listen)).web is not None


def test_without_the_table_there_is_no_page_and_no_library_is_loaded(config_file, tmp_path, model):
    assert config.load(config_file(tmp_path, model)).web is None
    code = (
        "import sys, cloud_server.service, cloud_server.cli; "
        "print({'starlette', 'uvicorn', 'prometheus_client'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- passwords and sessions --------------------------------------------------------------------------------------


def test_a_password_is_kept_as_a_hash_that_nobody_else_may_read(tmp_path):
    path = tmp_path / "web.password"
    password.write(path, "correct horse")
    assert b"correct" not in path.read_bytes()
    assert path.stat().st_mode & 0o007 == 0
    assert password.is_right("correct horse", password.read(path))
    for wrong in ("", "correct hors", "correct horse ", "x" * 5000):
        assert not password.is_right(wrong, password.read(path))
    path.chmod(0o644)
    with pytest.raises(NotAllowedError, match="others may read"):
        password.read(path)
    path.unlink()
    with pytest.raises(MissingInputError, match="no such file yet"):
        password.read(path)


@pytest.mark.parametrize("stored", [b"", b"scrypt$1$8$1$AAAA$AAAA", b"correct horse", b"\xff" * 90])
def test_a_file_that_is_no_hash_lets_nobody_in(stored):
    assert not password.is_right("correct horse", stored)
    assert not password.is_right("", stored)


def test_a_session_ends_after_its_time_and_the_oldest_goes_when_there_are_many():
    logins = Logins()
    first = logins.begin(b"stored", 0.0)
    assert logins.is_in(first, SESSION_S - 1.0)
    assert not logins.is_in(first, SESSION_S)
    tokens = [logins.begin(b"stored", 0.0) for _ in range(100)]
    assert not logins.is_in(tokens[0], 1.0)
    assert logins.is_in(tokens[-1], 1.0)
    logins.heed(b"another")
    assert not logins.is_in(tokens[-1], 1.0)


def test_commands_of_the_page(config_file, tmp_path, model, monkeypatch, capsys):
    from cloud_server.cli import main

    path = config_file(tmp_path, model, web_password="web.password", web_metrics_token="web.token")
    assert main(["web", "password", "-c", str(path), "--make"]) == 0
    made = capsys.readouterr().out.strip()
    assert password.is_right(made, password.read(tmp_path / "web.password"))
    assert main(["web", "token", "-c", str(path)]) == 0
    assert capsys.readouterr().out.strip().encode() == (tmp_path / "web.token").read_bytes().strip()
    assert main(["web", "password", "-c", str(config_file(tmp_path, model)), "--make"]) == 78
    assert "no table [web]" in capsys.readouterr().err
