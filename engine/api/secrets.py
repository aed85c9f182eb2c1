"""Secrets by reference: jobs name them, connectors read them when they open a client, and nothing prints them.

`${env:NAME}` stands for an environment variable, `${file:/path}` for a file's content without the newline at its end.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.redaction import HIDDEN, is_secret_name

_REFERENCE = re.compile(r"\$\{([^}:]*):([^}]*)\}")
_SECRET_IN_TEXT = re.compile(
    r"(?i)\b([\w.-]*(?:password|passwd|secret|token|credential)[\w.-]*\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&]+)"
)
_USER_INFO = re.compile(r"(\w+://[^\s/:@]+:)[^\s/@]+@")


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret given as a value rather than by reference; it does not show when printed.

    >>> Secret("hunter2")
    Secret(***)

    Args:
        value: The secret.
    """

    value: str = field(repr=False)

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"

    def __str__(self) -> str:
        return HIDDEN


def resolve_secrets(text: str | Secret, environment: Mapping[str, str] | None = None) -> str:
    """Put the values of `${env:...}` and `${file:...}` into a text.

    >>> resolve_secrets("user=${env:WHO}", {"WHO": "ada"})
    'user=ada'

    Args:
        text: Text with any number of references, or a secret.
        environment: Environment variables; None: this process's.

    Returns:
        The text with the values. It must go nowhere but into the client that needs it.

    Raises:
        ConfigError: A variable is not set, a file can't be read, or it is another kind of reference.
    """
    if isinstance(text, Secret):
        return text.value
    variables = os.environ if environment is None else environment
    return _REFERENCE.sub(lambda match: _look_up(match[1], match[2], variables), text)


def _look_up(kind: str, name: str, environment: Mapping[str, str]) -> str:
    if kind == "env":
        if name not in environment:
            raise ConfigError(f"the environment variable {name} is not set", hint=f"export {name}=... and start again")
        return environment[name]
    if kind == "file":
        try:
            return Path(name).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the secret file {name} can't be read: {type(error).__name__}") from error
    raise ConfigError(f"unknown kind of secret: ${{{kind}:...}}", hint="write ${env:NAME} or ${file:/path}")


def resolve_all(properties: Mapping[str, str | Secret], environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """`resolve_secrets` for every value; errors name the property.

    Raises:
        ConfigError: As `resolve_secrets`.
    """
    resolved = {}
    for key, value in properties.items():
        try:
            resolved[key] = resolve_secrets(value, environment)
        except ConfigError as error:
            raise ConfigError(f"property '{key}': {error.message}", hint=error.hint) from error
    return resolved


def redact(properties: Mapping[str, object]) -> dict[str, object]:
    """Properties fit for printing: secrets by type and by name are hidden; references tell nothing and stay.

    >>> redact({"sasl.username": "ada", "sasl.password": "hunter2", "ssl.key.password": "${env:KEY_PASSWORD}"})
    {'sasl.username': 'ada', 'sasl.password': '***', 'ssl.key.password': '${env:KEY_PASSWORD}'}

    Args:
        properties: Names and values; nested mappings are treated the same way.

    Returns:
        A copy.
    """
    return {key: _redacted(key, value) for key, value in properties.items()}


def _redacted(key: str, value: object) -> object:
    if isinstance(value, Mapping):
        return redact(value)
    if isinstance(value, Secret):
        return HIDDEN
    if is_secret_name(key):
        return value if isinstance(value, str) and _REFERENCE.fullmatch(value) else HIDDEN
    return redact_text(value) if isinstance(value, str) else value


def redact_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Hide secrets in a text, such as another library's error message.

    >>> redact_text("login as ada:pw failed, password=pw1; see http://ada:pw@host/", ["ada:pw"])
    'login as *** failed, password=***; see http://***@host/'

    Args:
        text: Any text.
        secrets: Values that must not show, wherever they are; shorter than four letters they are left alone, for they
            would hide too much.

    Returns:
        The text without these, without what follows `password=` and the like, and without passwords in URLs.
    """
    for secret in sorted((one for one in secrets if len(one) >= 4), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _USER_INFO.sub(rf"\1{HIDDEN}@", text)
    return _SECRET_IN_TEXT.sub(lambda match: match[0] if _REFERENCE.fullmatch(match[2]) else match[1] + HIDDEN, text)
