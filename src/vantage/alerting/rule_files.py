"""Rules as YAML. What is wrong with a file is reported with its line, its rule and its field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import yaml

from vantage.core.alert_rule import VERSION, Rule, RuleDocument, checked_rule
from vantage.core.errors import InputError

FILE_NBYTES_MAX: Final = 4 << 20
DEPTH_MAX: Final = 30
_STEP: Final = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")
_REASON: Final = re.compile(r"(?P<reason>.*?)(?: - at `(?P<path>[^`]*)`)?", re.DOTALL)


class RuleFileError(InputError):
    """A file cannot be used. ``line`` counts from 1; 0: unknown."""

    def __init__(self, reason: str, *, file: str, line: int = 0, rule: str = "", field: str = "") -> None:
        where = f"{file}:{line}" if line else file
        of = f"rule {rule!r}: " if rule else ""
        super().__init__(f"{where}: {of}{f'{field}: ' if field else ''}{reason}")
        self.line = line


class RuleFile:
    """The text of a file of rules, and the lines of what it says."""

    def __init__(self, text: str, *, name: str) -> None:
        """Parse YAML. Raises RuleFileError for what is no YAML, for keys that are there twice, and for aliases, which
        could make a small file a large one."""
        self.name = name
        if len(text.encode("utf-8", "surrogatepass")) > FILE_NBYTES_MAX:
            raise RuleFileError(f"is larger than {FILE_NBYTES_MAX >> 20} MiB", file=name)
        try:
            self._check_aliases(text)
            self.root = yaml.compose(text, Loader=yaml.SafeLoader)
            self._check_keys(self.root, 0)
            self.data = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise RuleFileError(error.problem or "is no YAML", file=name, line=mark.line + 1 if mark else 0) from error
        except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
            reason = str(error).splitlines()[0][:200] if str(error) else "is no YAML"
            raise RuleFileError(reason, file=name) from error

    def error(self, reason: str, path: str) -> RuleFileError:
        """Return an error at a path such as ``rules[2].condition.above``, with the line of what is nearest."""
        steps = [name if name else int(number) for name, number in _STEP.findall(path)]
        node, line, rule = self.root, 1, ""
        rest = list(steps)
        while rest and node is not None:
            child = _child(node, rest[0])
            if child is None:
                break
            node = child
            line = node.start_mark.line + 1
            rest.pop(0)
        if len(steps) >= 2 and steps[0] == "rules" and isinstance(steps[1], int):
            named = _child(_child(_child(self.root, "rules"), steps[1]), "name")
            rule = named.value if isinstance(named, yaml.ScalarNode) else f"number {steps[1] + 1}"
            path = ".".join(str(step) for step in steps[2:])
        return RuleFileError(reason, file=self.name, line=line, rule=rule, field=path)

    def convert(self, data: Any, kind: Any, *, path: str = "") -> Any:
        """Return a part of the file as a type. Raises RuleFileError."""
        try:
            return msgspec.convert(data, kind)
        except msgspec.ValidationError as error:
            match = _REASON.fullmatch(str(error))
            reason, at = (match["reason"], match["path"] or "$") if match else (str(error), "$")
            raise self.error(_plain(reason), path + at.removeprefix("$")) from error

    def _check_aliases(self, text: str) -> None:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise RuleFileError("aliases (*name) are not read", file=self.name, line=event.start_mark.line + 1)

    def _check_keys(self, node: Any, depth: int) -> None:
        if depth > DEPTH_MAX:
            raise RuleFileError("is nested too deeply", file=self.name)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise RuleFileError("a key is no text", file=self.name, line=key.start_mark.line + 1)
                if key.value in seen:
                    raise RuleFileError(f"{key.value!r} is there twice", file=self.name, line=key.start_mark.line + 1)
                seen.add(key.value)
                self._check_keys(value, depth + 1)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                self._check_keys(value, depth + 1)


def parse_rules(text: str, *, name: str = "rules") -> RuleDocument:
    """Return the rules of a file, each checked as far as it can be without data. Raises RuleFileError."""
    file = RuleFile(text, name=name)
    document = file.convert(_with_version(file), RuleDocument)
    return RuleDocument(tuple(checked_rules(file, document.rules)), document.version)


def checked_rules(file: RuleFile, rules: tuple[Rule, ...]) -> Iterator[Rule]:
    """Yield the rules of a file, checked. Raises RuleFileError."""
    names: set[str] = set()
    for number, rule in enumerate(rules):
        where = f"rules[{number}]"
        try:
            checked = checked_rule(rule)
        except InputError as error:
            raise file.error(error.reason, f"{where}.{error.field}") from error
        if checked.name in names:
            raise file.error("is that of another rule", f"{where}.name")
        names.add(checked.name)
        yield checked


def _with_version(file: RuleFile) -> Any:
    """Return the file's content. Raises RuleFileError for another version, before anything else is read of it."""
    if not isinstance(file.data, dict):
        raise RuleFileError("is not a document with 'version' and 'rules'", file=file.name, line=1)
    version = file.data.get("version", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise file.error(f"is {version!r}: this Vantage reads version {VERSION}", "version")
    return file.data


def parse_rule(text: str) -> Rule:
    """Return one rule, not yet checked. Raises RuleFileError."""
    file = RuleFile(text, name="YAML")
    if not isinstance(file.data, dict):
        raise RuleFileError("is no rule: give name and condition", file="YAML", line=1)
    rule: Rule = file.convert(file.data, Rule)
    return rule


def rules_yaml(document: RuleDocument) -> str:
    """Return a document as text; ``parse_rules`` returns it again."""
    return _dump({"version": document.version, "rules": [msgspec.to_builtins(rule) for rule in document.rules]})


def rule_yaml(rule: Rule) -> str:
    """Return a rule as text; ``parse_rule`` returns it again."""
    return _dump(msgspec.to_builtins(rule))


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Lists are indented below their key, as people write them; texts of several lines stay so."""

    def increase_indent(self, flow: bool = False, **_indentless: bool) -> None:  # noqa: FBT001, FBT002 - of yaml
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _dump(data: Any) -> str:
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


def _child(node: Any, step: str | int) -> Any:
    if isinstance(step, int):
        if isinstance(node, yaml.SequenceNode) and step < len(node.value):
            return node.value[step]
        return None
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    return None


def _plain(reason: str) -> str:
    """Return what msgspec says in the words of the other errors."""
    if reason.startswith("Object contains unknown field "):
        return f"has no field {reason.removeprefix('Object contains unknown field ').strip('`')!r}"
    if reason.startswith("Object missing required field "):
        return f"lacks the field {reason.removeprefix('Object missing required field ').strip('`')!r}"
    return reason[:1].lower() + reason[1:]
