"""CloudFormation's templates as plain data: read with their tags, then resolved for given parameters.

Only what our template uses is known here; another function, or a name of nothing, is a `KeyError` that names it.
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
"""What every stack knows of itself; the account is that of AWS's own examples."""

NOTHING = object()
"""What `AWS::NoValue` stands for; a value that is nothing is left out."""


class _Loader(yaml.SafeLoader):
    """Reads `!Sub text` as `{"Fn::Sub": "text"}`, which is how CloudFormation has it in JSON."""

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
        whole: The template, its functions unresolved.
        given: Parameters, by name; others are as their defaults. `Bucket` and `Bucket.Arn` name what is made; what is
            not given is called `<Bucket>`.
    """

    whole: Mapping[str, Any]
    given: Mapping[str, Any]

    @property
    def resources(self) -> dict[str, Any]:
        """Every resource whose condition holds, resolved, by its name."""
        return {
            name: self.resolve({key: value for key, value in result.items() if key != "Condition"})
            for name, result in self.whole["Resources"].items()
            if "Condition" not in result or self.backoffs(result["Condition"])
        }

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """The properties of all resources of one type, such as `AWS::IAM::Role`."""
        return {name: result["Properties"] for name, result in self.resources.items() if result["Type"] == kind}

    def properties(self, name: str) -> Any:
        """The properties of one resource."""
        return self.resources[name]["Properties"]

    def backoffs(self, condition: str) -> bool:
        """Whether a condition does."""
        return bool(self.resolve(self.whole["Conditions"][condition]))

    def value(self, name: str) -> Any:
        """What `!Ref name`, or `${name}`, stands for; or `!GetAtt`, where there is a point in it."""
        if name == "AWS::NoValue":
            return NOTHING
        if name in self.whole["Parameters"] and name in self.given:
            result = self.whole["Parameters"][name]
            assert re.fullmatch(result.get("AllowedPattern", ".*"), str(self.given[name])), f"{name} may not be so"
            assert self.given[name] in result.get("AllowedValues", [self.given[name]]), f"{name} may not be so"
        if name in self.given or name in AWS:
            return self.given.get(name, AWS.get(name))
        if name in self.whole["Parameters"]:
            return self.whole["Parameters"][name]["Default"]
        made = self.whole["Resources"][name.partition(".")[0]]
        assert "Condition" not in made or self.backoffs(made["Condition"]), f"{name} is not made"
        return f"<{name}>"

    def resolve(self, result: Any) -> Any:
        """`told` without functions."""
        match result:
            case {"Ref": _} | {"Condition": str()} if len(result) == 1:
                [(name, value)] = result.items()
                return FUNCTIONS[name](self, value)
            case dict() if len(result) == 1 and (name := next(iter(result))).startswith("Fn::"):
                return FUNCTIONS[name](self, result[name])
            case dict():
                return {key: value for key, one in result.items() if (value := self.resolve(one)) is not NOTHING}
            case list():
                return [value for one in result if (value := self.resolve(one)) is not NOTHING]
        return result


FUNCTIONS: dict[str, Function] = {
    "Ref": Stack.value,
    "Condition": Stack.backoffs,
    "Fn::GetAtt": lambda stack, path: stack.value(".".join(path)),
    "Fn::Sub": lambda stack, text: re.sub(r"\$\{([\w:.]+)\}", lambda found: str(stack.value(found[1])), text),
    "Fn::If": lambda stack, result: stack.resolve(result[1] if stack.backoffs(result[0]) else result[2]),
    "Fn::Equals": lambda stack, both: stack.resolve(both[0]) == stack.resolve(both[1]),
    "Fn::Not": lambda stack, one: not stack.resolve(one[0]),
}


def load(path: Path) -> dict[str, Any]:
    """The template at `path`."""
    whole: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    return whole


def listed(value: Any) -> list[Any]:
    """A list of whatever may stand alone, as actions and resources of a policy may."""
    return value if isinstance(value, list) else [value]


def within(result: Any, name: str) -> Iterator[dict[str, Any]]:
    """Every object below that has a key of this name, such as `Effect`."""
    if isinstance(result, dict):
        if name in result:
            yield result
        for one in result.values():
            yield from within(one, name)
    elif isinstance(result, list):
        for one in result:
            yield from within(one, name)
