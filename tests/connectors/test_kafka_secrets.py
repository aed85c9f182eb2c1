"""Secrets by reference, and that they do not show."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakeward.engine.api.secrets import Secret, redact, redact_text, resolve_all, resolve_secrets
from lakeward.engine.core.errors import ConfigError


def test_references_are_replaced_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("two words\n")
    text = f"a=${{env:A}};b=${{file:{tmp_path / 'key'}}};${{env:A}}"
    assert resolve_secrets(text, {"A": "1"}) == "a=1;b=two words;1"


def test_a_value_that_looks_like_a_reference_is_not_looked_up_again() -> None:
    assert resolve_secrets("${env:A}", {"A": "${env:B}", "B": "deep"}) == "${env:B}"


def test_text_without_references_stays_as_it_is() -> None:
    assert resolve_secrets("$HOME ${x} {env:A} $", {}) == "$HOME ${x} {env:A} $"


@pytest.mark.parametrize(
    ("text", "message"),
    [("${env:MISSING}", "MISSING is not set"), ("${file:/no/such}", "/no/such can't be read"), ("${vault:x}", "vault")],
)
def test_a_reference_that_leads_nowhere_is_an_error_that_names_it(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_secrets(text, {})
    with pytest.raises(ConfigError, match=r"property 'sasl.password': "):
        resolve_all({"sasl.password": text}, {})


def test_a_secret_given_as_a_value_resolves_but_does_not_print() -> None:
    secret = Secret("hunter2")
    assert resolve_all({"p": secret}) == {"p": "hunter2"}
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"


@pytest.mark.parametrize(
    "key",
    ["sasl.password", "ssl.key.password", "s3.secret-access-key", "s3.access-key-id", "oauth.token", "sasl.jaas.config",
     "API_KEY", "aws_session_token", "ssl.key.pem", "passphrase"],
)  # fmt: skip
def test_values_of_secret_names_are_hidden(key: str) -> None:
    assert redact({key: "hunter2"}) == {key: "***"}


@pytest.mark.parametrize(
    "key", ["sasl.username", "ssl.key.location", "ssl.ca.location", "key", "partition.key", "monkey"]
)
def test_values_of_other_names_are_shown(key: str) -> None:
    assert redact({key: "value"}) == {key: "value"}


def test_nested_settings_are_redacted_too() -> None:
    assert redact({"catalog": {"uri": "postgresql://ada:pw@db/x", "token": "t0ps3cret"}}) == {
        "catalog": {"uri": "postgresql://ada:***@db/x", "token": "***"}
    }


def test_known_secrets_and_usual_forms_are_hidden_in_text() -> None:
    text = "SASL failed for user=ada password='two words' token: abc; hunter2 again"
    assert redact_text(text, ["hunter2"]) == "SASL failed for user=ada password=*** token: ***; *** again"


def test_short_values_do_not_blot_out_the_text() -> None:
    assert redact_text("an error at 10", ["a", "10"]) == "an error at 10"
