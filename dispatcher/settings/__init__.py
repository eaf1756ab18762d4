"""What can be set, and how it is read. Core rules made from it are in ``settings/rules.py``, which workers do not import."""

from dispatcher.settings.knobs import Settings, env_name, load_settings, settings_environ, toml_place

__all__ = ["Settings", "env_name", "load_settings", "settings_environ", "toml_place"]
