"""Settings from a TOML or YAML file."""

from pathlib import Path
from typing import Any

from stableprompt.errors import ConfigError


def read_settings(path: Path) -> dict[str, Any]:
    """Settings from a TOML or YAML file.

    Raises:
        ConfigError: it is missing, neither TOML nor YAML, or not a table of settings.
    """
    import tomllib

    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"settings file {path} cannot be read ({error}); check the path"
        ) from error
    if path.suffix not in {".toml", ".yaml", ".yml"}:
        raise ConfigError(f"settings file {path} must end in .toml, .yaml or .yml")
    try:
        settings: Any = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:  # yaml reads dates, and 2024-13-45 is none
        reason = " ".join(str(error).split())
        raise ConfigError(f"settings file {path} does not parse: {reason}") from error
    if settings is None:  # an empty YAML file
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(
            f"settings file {path} must hold named settings, found {type(settings).__name__}"
        )
    return settings
