"""What can be set, and how it is read. Core rules made from it are in ``settings/rules.py``, which workers do not
import.
"""

from dispatcher.settings.knobs import Settings, env_name, toml_place
from dispatcher.settings.reading import load_settings, settings_environ

__all__ = ["Settings", "env_name", "load_settings", "settings_environ", "toml_place"]
