"""Where the plugin is for installations made before it stood beside the package."""

from pytest_trioweb import *  # noqa: F403
