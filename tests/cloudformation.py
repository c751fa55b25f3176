"""CloudFormation templates as plain data: read with their tags, then resolved for given parameters.

Supports only what our template uses; an unknown function or name is a `KeyError` with that name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

AWS: dict[str, str] = {
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::AccountId": "111122223333",
    "AWS::StackName": "tmdb",
}
"""Pseudo parameters of a stack; the account is the one of AWS's own examples."""

NOTHING = object()
"""The value of `AWS::NoValue`; such values are left out."""


class _Loader(yaml.SafeLoader):
    """Reads `!Sub text` as `{"Fn::Sub": "text"}`, CloudFormation's form in JSON."""

    def tagged(self, name: str, node: yaml.Node) -> dict[str, Any]:
        value: Any
        match node:
            case yaml.ScalarNode():
                value = self.construct_scalar(node)
            case yaml.SequenceNode():
                value = self.construct_sequence(node, deep=True)
            case _:
                value = self.construct_mapping(node, deep=True)
        if name == "GetAtt":
            value = value.split(".", 1)
        return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}


_Loader.add_multi_constructor("!", _Loader.tagged)

Function: TypeAlias = Callable[["Stack", Any], Any]


@dataclass(frozen=True, slots=True)
class Stack:
    """A template with the parameters of one deployment.

    Attributes:
        whole: The template, with unresolved functions.
        given: Parameters by name; others have their defaults. It can also name resources and their attributes, such as
            `Bucket` and `Bucket.Arn`; one that is not given has the value `<Bucket>`.
    """

    whole: Mapping[str, Any]
    given: Mapping[str, Any]

    @property
    def resources(self) -> dict[str, Any]:
        """Every resource without a condition or with a true one, resolved, by name."""
        return {
            name: self.resolve({key: value for key, value in resource.items() if key != "Condition"})
            for name, resource in self.whole["Resources"].items()
            if "Condition" not in resource or self.is_true(resource["Condition"])
        }

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """The properties of all resources of one type, such as `AWS::IAM::Role`."""
        return {name: each["Properties"] for name, each in self.resources.items() if each["Type"] == kind}

    def properties(self, name: str) -> Any:
        """The properties of one resource."""
        return self.resources[name]["Properties"]

    def is_true(self, condition: str) -> bool:
        """Whether a condition of the template is true."""
        return bool(self.resolve(self.whole["Conditions"][condition]))

    def value(self, name: str) -> Any:
        """The value of `!Ref name` or `${name}`; of `!GetAtt`, if the name contains a point."""
        if name == "AWS::NoValue":
            return NOTHING
        if name in self.whole["Parameters"] and name in self.given:
            parameter = self.whole["Parameters"][name]
            assert re.fullmatch(parameter.get("AllowedPattern", ".*"), str(self.given[name])), (
                f"{name} has a value that is not allowed"
            )
            assert self.given[name] in parameter.get("AllowedValues", [self.given[name]]), (
                f"{name} has a value that is not allowed"
            )
        if name in self.given or name in AWS:
            return self.given.get(name, AWS.get(name))
        if name in self.whole["Parameters"]:
            return self.whole["Parameters"][name]["Default"]
        resource = self.whole["Resources"][name.partition(".")[0]]
        assert "Condition" not in resource or self.is_true(resource["Condition"]), f"{name} is not created"
        return f"<{name}>"

    def resolve(self, node: Any) -> Any:
        """The part of a template with all its functions resolved."""
        match node:
            case {"Ref": _} | {"Condition": str()} if len(node) == 1:
                [(name, value)] = node.items()
                return FUNCTIONS[name](self, value)
            case dict() if len(node) == 1 and (name := next(iter(node))).startswith("Fn::"):
                return FUNCTIONS[name](self, node[name])
            case dict():
                return {key: value for key, one in node.items() if (value := self.resolve(one)) is not NOTHING}
            case list():
                return [value for one in node if (value := self.resolve(one)) is not NOTHING]
        return node


FUNCTIONS: dict[str, Function] = {
    "Ref": Stack.value,
    "Condition": Stack.is_true,
    "Fn::GetAtt": lambda stack, path: stack.value(".".join(path)),
    "Fn::Sub": lambda stack, text: re.sub(r"\$\{([\w:.]+)\}", lambda found: str(stack.value(found[1])), text),
    "Fn::If": lambda stack, words: stack.resolve(words[1] if stack.is_true(words[0]) else words[2]),
    "Fn::Equals": lambda stack, both: stack.resolve(both[0]) == stack.resolve(both[1]),
    "Fn::Not": lambda stack, one: not stack.resolve(one[0]),
}


def load(path: Path) -> dict[str, Any]:
    """The template at `path`."""
    whole: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    return whole


def listed(value: Any) -> list[Any]:
    """The value as a list; actions and resources of a policy may be single values."""
    return value if isinstance(value, list) else [value]


def within(node: Any, name: str) -> Iterator[dict[str, Any]]:
    """Every object in `node`, at any depth, that has this key, such as `Effect`."""
    if isinstance(node, dict):
        if name in node:
            yield node
        for one in node.values():
            yield from within(one, name)
    elif isinstance(node, list):
        for one in node:
            yield from within(one, name)
