"""Settings from a TOML, YAML or JSON file."""

from pathlib import Path
from typing import Any

from stableprompt.errors import ConfigError


def read_settings(path: Path) -> dict[str, Any]:
    """Settings from a TOML, YAML or JSON file, such as the config.json of a run.

    Raises:
        ConfigError: it is missing, none of these, or not a table of settings.
    """
    import json
    import tomllib

    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"settings file {path} cannot be read ({error}); check the path"
        ) from error
    if path.suffix not in {".toml", ".yaml", ".yml", ".json"}:
        raise ConfigError(f"settings file {path} must end in .toml, .yaml, .yml or .json")
    try:
        settings: Any
        if path.suffix in (".toml", ".json"):
            settings = (tomllib if path.suffix == ".toml" else json).loads(text)
        else:
            settings = yaml.safe_load(text)
    # ValueError: yaml reads dates, and 2024-13-45 is none; RecursionError: [[[[...
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"settings file {path} does not parse: {reason}") from error
    if settings is None:  # an empty YAML file
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(
            f"settings file {path} must hold named settings, found {type(settings).__name__}"
        )
    return settings
