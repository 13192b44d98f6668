"""Reading and writing of ``config.toml``, and the environment variables that override it.

Owns the way from text to a `Config` and back, and the sentences about what is wrong in it. Never
knows a setting: `node.config.sections` does.

``QUORATE_P2P__LISTEN`` overrides ``listen`` of ``[p2p]``, ``QUORATE_LOG_LEVEL`` the setting
``log_level`` outside the sections. A variable with two underscores in a row that names no setting
is refused; others are somebody else's (`QUORATE_HOME`).
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import Field, fields, replace
from difflib import get_close_matches
from functools import partial
from typing import Final, TypeVar

from quorate.chain.errors import StorageError

from node.config.sections import (
    SECTIONS,
    Config,
    Contradiction,
    Section,
    find_contradiction,
)
from node.errors import ConfigError
from node.home import Home
from store.disk import replace_file

Built = TypeVar("Built")

CONFIG_BYTES_MAX: Final = 1 << 20
"""Longest configuration file, in bytes."""

ENVIRONMENT_PREFIX: Final = "QUORATE_"
_MS: Final = "_ms"
_HEADING: Final = (
    "# The settings of a Quorate node. An environment variable overrides a setting:\n"
    "# QUORATE_P2P__LISTEN stands for listen of [p2p]."
)


def load_config(home: Home, environment: Mapping[str, str] | None = None) -> Config:
    """Read the settings of a home folder.

    Parameters
    ----------
    home : Home
        Where the file lies.
    environment : mapping of str to str, optional
        Variables that override the file; those of the process by default.

    Raises
    ------
    ConfigError
        One sentence that names the file or variable, the setting and the way out.
    """
    path = home.config_file
    try:
        with path.open("rb") as file:
            raw = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"There is no configuration file {path}: run `quorate init --home {home.folder}`."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"The configuration file {path} cannot be read ({error.strerror}): give the node's "
            "user the right to."
        ) from error
    if len(raw) > CONFIG_BYTES_MAX:
        raise ConfigError(
            f"The configuration file {path} exceeds {CONFIG_BYTES_MAX} bytes: cut it."
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ConfigError(
            f"The configuration file {path} is no UTF-8 text: save it as such."
        ) from None
    return parse_config(text, str(path), os.environ if environment is None else environment)


def parse_config(text: str, source: str, environment: Mapping[str, str] | None = None) -> Config:
    """Read settings from TOML.

    Parameters
    ----------
    text : str
        TOML; what it leaves out has its default.
    source : str
        What the text is called in errors.
    environment : mapping of str to str, optional
        Variables that override the text; none by default.

    Raises
    ------
    ConfigError
        One sentence that names the source, the setting and the way out.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is no valid TOML: {error}. Correct that line.") from error
    settings: dict[str, object] = {}
    for key, value in document.items():
        if key in SECTIONS:
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {key} must be a section, [{key}], not a value.")
            settings[key] = _read_section(SECTIONS[key], value, f"{source}: [{key}]")
        else:
            settings |= _read_setting(Config, key, value, f"{source}:")
    config, set_by = _apply_environment(_build(Config, settings), environment or {})
    contradiction = find_contradiction(config)
    if contradiction is not None:
        raise ConfigError(_describe_contradiction(contradiction, source, set_by))
    return config


def render_config(config: Config) -> str:
    """Return the settings as TOML, each with what it is for."""
    blocks = [_HEADING, *_render_settings(config)]
    for name, kind in SECTIONS.items():
        about = (kind.__doc__ or "").partition(": ")[2]
        blocks.append(f"# {about[:1].upper()}{about[1:]}\n[{name}]")
        blocks += _render_settings(getattr(config, name))
    return "\n\n".join(blocks) + "\n"


def write_config(home: Home, config: Config) -> None:
    """Write the settings of a home folder, in place of those that are there.

    Raises
    ------
    ConfigError
        If the file cannot be written; the old one is still there.
    """
    try:
        replace_file(home.config_file, render_config(config).encode())
    except StorageError as error:
        raise ConfigError(str(error)) from error


def write_default_config(home: Home) -> Config:
    """Write the default settings to a home folder and return them."""
    config = Config()
    write_config(home, config)
    return config


def _key(setting: "Field[object]") -> str:
    return setting.name.removesuffix(_MS) if setting.name.endswith(_MS) else setting.name


def _settings_of(kind: type[Section] | type[Config]) -> dict[str, "Field[object]"]:
    return {_key(each): each for each in fields(kind) if "kind" in each.metadata}


def _read_section(kind: type[Section], table: dict[str, object], place: str) -> Section:
    settings: dict[str, object] = {}
    for key, value in table.items():
        settings |= _read_setting(kind, key, value, place)
    build: Callable[..., Section] = kind
    return _build(build, settings)


def _build(kind: Callable[..., Built], settings: dict[str, object]) -> Built:
    # Each value has passed its setting's kind.
    return kind(**settings)


def _change(built: Built, changes: dict[str, object]) -> Built:
    build: Callable[..., Built] = partial(replace, built)  # type: ignore[type-var]
    return build(**changes)


def _read_setting(
    kind: type[Section] | type[Config], key: str, value: object, place: str
) -> dict[str, object]:
    known = _settings_of(kind)
    if key not in known:
        names = [*known, *SECTIONS] if kind is Config else list(known)
        raise ConfigError(f"{place} {_describe_unknown(key, names)}")
    setting = known[key]
    try:
        return {setting.name: setting.metadata["kind"].parse(value)}
    except ValueError as error:
        raise ConfigError(f"{place} {key} {error}.") from error


def _describe_unknown(key: str, names: list[str]) -> str:
    what = "section" if key in SECTIONS else "setting"
    near = get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}."
    return f"knows no {what} {key!r}: {hint}"


def _describe_contradiction(
    contradiction: Contradiction, source: str, set_by: Mapping[tuple[str, str], str]
) -> str:
    """Blame the variables that set some of the settings, and the file unless they set all."""
    variables = sorted(set_by[setting] for setting in contradiction.settings if setting in set_by)
    if not variables:
        return f"{source}: {contradiction.sentence}"
    noun = "variables" if len(variables) > 1 else "variable"
    place = f"The environment {noun} {' and '.join(variables)}"
    if len(variables) < len(contradiction.settings):
        place += f", over {source}"
    return f"{place}: {contradiction.sentence}"


def _apply_environment(
    config: Config, environment: Mapping[str, str]
) -> tuple[Config, dict[tuple[str, str], str]]:
    """Return the settings with what the variables change, and the variable of each that they do."""
    top = _settings_of(Config)
    set_by: dict[tuple[str, str], str] = {}
    for name in sorted(environment):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        section, separator, key = name[len(ENVIRONMENT_PREFIX) :].lower().partition("__")
        place = f"The environment variable {name}"
        if not separator:
            if section in top:
                change = _read_variable(top[section], environment[name], place)
                config = _change(config, change)
            continue
        if section not in SECTIONS:
            raise ConfigError(f"{place}: the configuration {_describe_unknown_section(section)}")
        known = _settings_of(SECTIONS[section])
        if key not in known:
            raise ConfigError(f"{place}: [{section}] {_describe_unknown(key, list(known))}")
        change = _read_variable(known[key], environment[name], place)
        config = _change(config, {section: _change(getattr(config, section), change)})
        set_by[section, key] = name
    return config, set_by


def _describe_unknown_section(name: str) -> str:
    near = get_close_matches(name, list(SECTIONS), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SECTIONS)}."
    return f"knows no section {name!r}: {hint}"


def _read_variable(setting: "Field[object]", text: str, place: str) -> dict[str, object]:
    try:
        return {setting.name: setting.metadata["kind"].parse_text(text)}
    except ValueError as error:
        raise ConfigError(f"{place} {error}.") from error


def _render_settings(values: Config | Section) -> list[str]:
    blocks = []
    for key, setting in _settings_of(type(values)).items():
        comment = "".join(f"# {line}\n" for line in setting.metadata["about"].splitlines())
        value = setting.metadata["kind"].render(getattr(values, setting.name))
        blocks.append(f"{comment}{key} = {value}")
    return blocks
