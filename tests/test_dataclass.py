"""Data classes written late against those of the standard library."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import pickle
import pkgutil
import sys
import threading
from dataclasses import dataclass as at_once
from dataclasses import field
from typing import Any

import pytest

import trioweb
from trioweb import _dataclass
from trioweb._dataclass import dataclass as late

FROZEN = {"frozen": True, "slots": True}
OPTIONS = [FROZEN, FROZEN | {"kw_only": True}, {"slots": True}]


def _made(decorator: Any, options: dict[str, bool], **own: Any) -> Any:
    class Point:
        """A place."""

        x: int
        y: int = field(default=2, repr=False)
        tags: list[str] = field(default_factory=list, compare=False)

        def __post_init__(self) -> None:
            if self.x < 0:
                raise ValueError(f"x is {self.x}")

        def moved(self) -> Any:
            return dataclasses.replace(self, x=self.x + 1)  # type: ignore[type-var]

    for name, value in own.items():
        setattr(Point, name, value)
    return decorator(**options)(Point)


@pytest.fixture(params=OPTIONS, ids=lambda options: "-".join(options))
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return _made(late, request.param), _made(at_once, request.param)


def _attributes(kind: type) -> set[str]:
    return vars(kind).keys() - {"__module__"}


def test_late_class_has_what_another_has_before_and_after(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    assert _attributes(ours) == _attributes(theirs)
    assert ours(x=1) == ours(x=1)
    assert _attributes(ours) == _attributes(theirs)
    assert not any(isinstance(value, _dataclass._Late) for value in vars(ours).values())


@pytest.mark.parametrize(
    "look",
    [
        lambda kind: (kind.__name__, kind.__qualname__, kind.__module__, kind.__doc__),
        lambda kind: kind.__slots__,
        lambda kind: inspect.signature(kind),
        lambda kind: kind.__match_args__,
        lambda kind: [repr(each) for each in dataclasses.fields(kind)],
        lambda kind: repr(kind.__dataclass_params__),
        lambda kind: dataclasses.is_dataclass(kind),
        lambda kind: kind.__hash__ is None,
        lambda kind: repr(kind(x=1)),
        lambda kind: repr(kind(x=1, y=3, tags=["a"])),
        lambda kind: dataclasses.asdict(kind(x=1)),
        lambda kind: kind(x=1) == kind(x=1, tags=["other"]),
        lambda kind: kind(x=1) == kind(x=2),
        lambda kind: kind(x=1).__eq__(1),
        lambda kind: repr(kind(x=1).moved()),
        lambda kind: repr(copy.copy(kind(x=1, tags=["a"]))),
        lambda kind: hash(kind(x=1)),
        lambda kind: kind(1),
        lambda kind: kind(x=-1),
        lambda kind: kind(),
        lambda kind: setattr(kind(x=1), "x", 2),
        lambda kind: delattr(kind(x=1), "x"),
        lambda kind: setattr(kind(x=1), "z", 2),
    ],
)
def test_late_class_behaves_as_another(pair: tuple[Any, Any], look: Any) -> None:
    """Each look is the first at its class, as each pair has classes of its own."""

    def seen(kind: Any) -> Any:
        try:
            value = look(kind)
        except Exception as error:
            return type(error), str(error)
        return repr(value) if type(value) is kind else value

    ours, theirs = pair
    assert seen(ours) == seen(theirs)


def test_late_class_keeps_methods_of_its_own() -> None:
    kind = _made(late, FROZEN, __repr__=lambda self: "a point")
    assert repr(kind(1)) == "a point"
    assert kind(1) == kind(1)


def test_subclass_of_a_late_class_is_as_another(pair: tuple[Any, Any]) -> None:
    def shown(base: Any) -> str:
        own: dict[str, Any] = {"__repr__": lambda self: f"<{super(plain, self).__repr__()}>"}
        plain: Any = type("Plain", (base,), own)
        made = object.__new__(plain)
        for name in ("x", "y", "tags"):
            object.__setattr__(made, name, 1)
        return repr(made)

    ours, theirs = pair
    assert shown(ours) == shown(theirs)


def test_data_class_may_have_a_late_class_as_its_base() -> None:
    base = _made(late, FROZEN)
    more: Any = dataclasses.make_dataclass("More", [("z", int, 0)], bases=(base,), frozen=True)
    assert [each.name for each in dataclasses.fields(more)] == ["x", "y", "tags", "z"]
    assert more(1, z=4) != more(1, z=5)


def test_late_class_is_written_whole_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = _made(late, FROZEN)
    left = 1

    def interrupted(**options: bool) -> Any:
        def decorate(plain: type) -> type:
            nonlocal left
            made: type = at_once(**options)(plain)
            if left:
                left -= 1
                raise KeyboardInterrupt
            return made

        return decorate

    monkeypatch.setattr(dataclasses, "dataclass", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kind(1)
    assert kind(1) == kind(1)


def test_late_class_is_written_by_two_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = _made(late, FROZEN)
    both = threading.Barrier(2, timeout=20)

    def together(**options: bool) -> Any:
        both.wait()
        return at_once(**options)

    monkeypatch.setattr(dataclasses, "dataclass", together)
    seen: list[Any] = []
    threads = [threading.Thread(target=lambda: seen.append(kind(1))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    monkeypatch.undo()
    assert seen == [kind(1), kind(1)]


def _late_classes() -> list[Any]:
    found = []
    for module in pkgutil.walk_packages(trioweb.__path__, "trioweb."):
        if module.name.rpartition(".")[2] == "__main__":
            continue
        importlib.import_module(module.name)
    for name, loaded in list(sys.modules.items()):
        if name.partition(".")[0] == "trioweb":
            found += [
                value
                for value in vars(loaded).values()
                if isinstance(value, type)
                and value.__module__ == name
                and "__dataclass_fields__" in vars(value)
            ]
    return found


def test_slots_of_every_data_class_are_its_fields() -> None:
    kinds = _late_classes()
    assert len(kinds) > 60
    for kind in kinds:
        assert kind.__slots__ == tuple(each.name for each in dataclasses.fields(kind)), kind


def test_late_class_that_is_only_made_has_no_methods_to_compare_and_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[set[str]] = []

    def noted(**options: bool) -> Any:
        def decorate(plain: type) -> type:
            kind: type = at_once(**options)(plain)
            made.append({"__init__", "__eq__", "__hash__", "__repr__"} & vars(kind).keys())
            return kind

        return decorate

    kind = _made(late, FROZEN)
    monkeypatch.setattr(dataclasses, "dataclass", noted)
    assert kind(x=1).moved().x == 2
    assert made == [{"__init__"}]


def test_late_class_is_pickled() -> None:
    limits = trioweb.Limits(max_message_bytes=7)
    assert pickle.loads(pickle.dumps(limits)) == limits
