"""What a command is told, wherever that stands: its command line, the environment, or a file.

The table of its options is the source of all three.  `--max-topics` is TRIOWEB_MAX_TOPICS in the
environment and `max_topics` in the file, with the same conversion and the same complaints, so that
a new option has all of this by itself.  The command line comes before the environment, that before
the file, and that before what the option is otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, Final, NoReturn

from .._dataclass import dataclass
from ._files import read_toml
from ._numbers import Number
from ._terminal import UsageError

_PREFIX: Final = "TRIOWEB_"
_CONFIG: Final = "TRIOWEB_CONFIG"
# Those of `connect`; whatever an option reads from a file may stand in the environment itself.
_OTHERS: Final = frozenset({_CONFIG, "TRIOWEB_TOKEN"})
_WORDS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
# A user and password in a URL: up to the last "@" before its path, as readers of URLs have it.
_USER_INFO: Final = re.compile(r"(?<=://)[^/\s]*@")


def without_secrets(text: str) -> str:
    """*text* as it may be shown: without the users and passwords of the URLs in it."""
    return _USER_INFO.sub("…@", text)


class _Given(str):
    """What stood on the command line, with what it was converted into."""

    __slots__ = ("value",)

    value: Any


@dataclass(frozen=True, slots=True)
class Setting:
    """One option, which may stand in three places.

    Attributes:
        option: its name on the command line.
        name: its key in the file, and its attribute among the options.
        convert: makes a value of text.
        choices: all the text that there can be; None for any.
        is_flag: whether it is on or off.
        is_list: whether there may be several.
        default: what it is otherwise.
        is_rereadable: whether a running server takes a new value.
        about: what it does.
    """

    option: str
    name: str
    convert: Callable[[str], Any]
    choices: Sequence[str] | None
    is_flag: bool
    is_list: bool
    default: Any
    is_rereadable: bool
    about: str

    @property
    def variable(self) -> str:
        return f"{_PREFIX}{self.name.upper()}"

    @property
    def kind(self) -> str:
        """What stands in the file, in words."""
        if self.is_flag:
            return "true or false"
        one = "a number" if isinstance(self.convert, Number) else "a string"
        return f"an array, each {one}" if self.is_list else one

    def from_text(self, text: str, where: str) -> Any:
        """Its value by a variable of the environment; of several there is one a line.

        Raises:
            UsageError: there can be no such value.
        """
        if self.is_flag:
            if text.lower() not in _WORDS:
                _refuse(f"{where}: {text!r} is not true or false")
            return _WORDS[text.lower()]
        if self.is_list:
            return [self._value(line, where) for line in text.splitlines() if line]
        return self._value(text, where)

    def from_toml(self, given: object, where: str) -> Any:
        """Its value by the file; as above."""
        parts = given if self.is_list and isinstance(given, list) else [given]
        if isinstance(given, list) != self.is_list or not all(map(self._is_one, parts)):
            _refuse(f"{where} = {given!r}: must be {self.kind}")
        if self.is_flag:
            return given
        values = [self._value(str(part), where) for part in parts]
        return values if self.is_list else values[0]

    def _is_one(self, given: object) -> bool:
        if self.is_flag:
            return isinstance(given, bool)
        if isinstance(self.convert, Number):
            return isinstance(given, int | float) and not isinstance(given, bool)
        return isinstance(given, str)

    def _value(self, text: str, where: str) -> Any:
        try:
            value = _convert(self.convert, text)
        except argparse.ArgumentTypeError as exc:
            _refuse(f"{where}: {exc}")
        if self.choices is not None and value not in self.choices:
            _refuse(f"{where}: {text!r} is none of {', '.join(self.choices)}")
        return value


@dataclass(frozen=True, slots=True)
class Used:
    """A setting with the value that counts.

    Attributes:
        source: where that stands, in words.
        given: the value, as text for all but numbers; None where there is none.
    """

    setting: Setting
    source: str
    given: Any

    @property
    def line(self) -> str:
        """The line of a file that would say the same, but for secrets."""
        if self.given is None:
            return f"# {self.setting.name}: nothing  # {self.source}"
        return f"{self.setting.name} = {without_secrets(_as_toml(self.given))}  # {self.source}"


class Settings:
    """The options of a command that may stand elsewhere, too."""

    def __init__(self, command: argparse.ArgumentParser) -> None:
        self.table: list[Setting] = []
        self._command = command
        group = command.add_argument_group("where all of this may stand")
        group.add_argument(
            "--config",
            metavar="FILE",
            help="TOML, where each option may stand by its name, such as max_topics = 100. In the "
            f"environment that is {_PREFIX}MAX_TOPICS=100. The command line comes first, then the "
            "environment, then the file; SIGHUP reads that again",
        )
        group.add_argument(
            "--check",
            action="store_true",
            help="read everything, say what would be used, and end",
        )

    def group(self, title: str) -> Callable[..., None]:
        """What adds options to a group of them, as argparse's `add_argument` does.

        It takes one argument more: `rereadable=True` says that a running server takes a new value.
        """
        group = self._command.add_argument_group(title)

        def add(option: str, *, help: str, rereadable: bool = False, **details: Any) -> None:
            about = help
            kind = details.pop("type", str)
            default = details.pop("default", None)
            is_flag = details.get("action") == "store_true"
            if is_flag:
                default = False
            else:
                details["type"] = partial(_convert, kind)
                if default:
                    help += f" (default: {default})"
            # What was not given has to be told from what is the default.
            action = group.add_argument(option, default=argparse.SUPPRESS, help=help, **details)
            setting = Setting(
                option=option,
                name=action.dest,
                convert=kind,
                choices=details.get("choices"),
                is_flag=is_flag,
                is_list=details.get("action") == "append",
                default=default,
                is_rereadable=rereadable,
                about=about,
            )
            self.table.append(setting)

        return add

    def complete(
        self, arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ
    ) -> argparse.Namespace:
        """What counts, given what stood on the command line.

        `used` of it has each setting with its source, and `arguments` what is given here.

        Raises:
            UsageError: something in the environment or the file cannot be.
        """
        path = arguments.config or environment.get(_CONFIG) or None
        file = {} if path is None else self._read_file(path)
        used = [self._find(setting, arguments, environment, path, file) for setting in self.table]
        values = {each.setting.name: _value(each.given) for each in used}
        options = argparse.Namespace(**{**vars(arguments), **values})
        options.config, options.used, options.arguments = path, used, arguments
        return options

    def _find(
        self,
        setting: Setting,
        arguments: argparse.Namespace,
        environment: Mapping[str, str],
        path: str | None,
        file: Mapping[str, object],
    ) -> Used:
        name, variable = setting.name, setting.variable
        if hasattr(arguments, name):
            return Used(setting, "command line", getattr(arguments, name))
        # An empty one says nothing, as for most programs.
        if text := environment.get(variable):
            return Used(setting, "environment", setting.from_text(text, variable))
        if name in file:
            return Used(setting, "file", setting.from_toml(file[name], f"--config {path}: {name}"))
        return Used(setting, "default", setting.default)

    def _read_file(self, path: str) -> Mapping[str, object]:
        where = f"--config {path}"
        file = read_toml("--config", path)
        names = [setting.name for setting in self.table]
        for key in file:
            if key not in names:
                close = get_close_matches(key.replace("-", "_"), names, 1)
                meant = f"; {close[0]} is one" if close else f"; there are {', '.join(names)}"
                raise UsageError(f"{where}: {key}: there is no such key{meant}")
        return file

    def strange_variables(self, environment: Mapping[str, str] = os.environ) -> list[str]:
        """The variables of *environment* that look like ours, and say nothing to anybody."""
        known = {setting.variable for setting in self.table}
        known |= {name.removesuffix("_FILE") for name in known} | _OTHERS
        return sorted(
            name for name in environment if name.startswith(_PREFIX) and name not in known
        )


def _refuse(complaint: str) -> NoReturn:
    raise UsageError(without_secrets(complaint))


def _convert(convert: Callable[[str], Any], text: str) -> Any:
    """The value of *text*, which goes along where it is no number."""
    value = convert(text)
    if isinstance(convert, Number):
        return value
    given = _Given(text)
    given.value = value
    return given


def _value(given: Any) -> Any:
    if isinstance(given, list):
        return [_value(each) for each in given]
    return given.value if isinstance(given, _Given) else given


def _as_toml(given: Any) -> str:
    if isinstance(given, list):
        return f"[{', '.join(map(_as_toml, given))}]"
    if not isinstance(given, str):
        return json.dumps(given)
    # JSON's strings are TOML's, but for this one.
    text = json.dumps(given, ensure_ascii=False).replace("\x7f", "\\u007f")
    return text.encode("utf-8", "backslashreplace").decode()
