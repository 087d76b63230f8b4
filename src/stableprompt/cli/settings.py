"""``--set ppo.learning_rate=1e-4`` and flags into nested settings."""

from typing import Any

from stableprompt.errors import ConfigError


def nested(dotted: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} for "a.b"."""
    settings: Any = value
    for part in reversed(dotted.split(".")):
        settings = {part: settings}
    return dict(settings)


def parse_assignments(assignments: list[str]) -> list[dict[str, Any]]:
    """Layers of settings from NAME=VALUE; values are read as YAML.

    Raises:
        ConfigError: one has no "=".
    """
    layers = []
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {assignment!r} must look like ppo.learning_rate=0.0001")
        layers.append(nested(name.strip(), _parse(value)))
    return layers


def _parse(value: str) -> Any:
    import yaml  # only where something is set: help and listings do without

    try:
        parsed = yaml.safe_load(value)
    # ValueError: yaml reads dates, and 2024-13-45 is none; RecursionError: [[[[...
    except (ValueError, RecursionError, yaml.YAMLError):
        return value
    if "#" in value or (parsed is None and value.strip() not in ("", "null", "~")):
        return value  # YAML takes what stands behind # for a remark, but here it was meant
    if not isinstance(parsed, str | int | float | list | None):  # {text} is a text, not a mapping
        return value
    if isinstance(parsed, str):  # YAML 1.1 reads 1e-4 as text
        try:
            return float(parsed)
        except ValueError:
            return parsed
    return parsed
