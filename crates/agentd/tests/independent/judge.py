"""Judges requests that were captured on their way to a model provider.

    judge.py < REQUESTS > VERDICTS

Each line of the input is {"wire": "openai" | "anthropic", "body": {...}}. Each line of the output is a JSON string: why that
request is wrong, or an empty one. A request must be of the types that the provider's own SDK has for it, without any field
that those do not know, and its messages must stand in an order in which every call has its one result.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import anthropic.types as anthropic_types
import openai.types.chat as openai_types
import openai.types.chat.completion_create_params
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import is_typeddict

# What Anthropic's API takes; its types do not say it.
MOST_CACHE_MARKS = 4
IDENTIFIER = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class Wrong(Exception):
    """A request is not as it should be."""


def forbid_unknown_fields() -> None:
    """Without this, pydantic drops what a TypedDict does not name, and blocks of replies, which may stand in requests of
    Anthropic too, take any field."""
    replies: set[Any] = set()
    for name, module in list(sys.modules.items()):
        if name.startswith(("openai.types", "anthropic.types")):
            for value in vars(module).values():
                if is_typeddict(value):
                    value.__pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
                elif inspect.isclass(value) and issubclass(value, BaseModel) and value.__name__.endswith("Block"):
                    replies.add(value)
    for model in replies:
        model.model_config = {**model.model_config, "extra": "forbid"}
        model.model_rebuild(force=True)


def exhaust(value: Any) -> None:
    """Walks through everything: what the types call Iterable is validated only when it is read."""
    if isinstance(value, dict):
        for inner in value.values():
            exhaust(inner)
    elif isinstance(value, (list, Iterator)):
        for inner in value:
            exhaust(inner)


def need(holds: bool, why: str) -> None:
    if not holds:
        raise Wrong(why)


def openai_order(body: dict[str, Any]) -> None:
    """System first; then users and assistants by turns; results right behind the calls that they answer."""
    messages = body["messages"]
    roles = [message["role"] for message in messages]
    need("system" not in roles[1:], "a system message that is not the first")
    if roles and roles[0] == "system":
        messages, roles = messages[1:], roles[1:]
    need(roles[:1] == ["user"], "the conversation does not begin with the user")
    need(roles[-1] in ("user", "tool"), "nothing is asked: the last message is the model's")
    open_calls: set[str] = set()
    before = ""
    for message in messages:
        role = message["role"]
        if role == "tool":
            need(message["tool_call_id"] in open_calls, "a result without its call")
            open_calls.discard(message["tool_call_id"])
        else:
            need(not open_calls, "a call without its result")
            need(role != before, f"two messages of the {role} in a row")
        for call in message.get("tool_calls", []):
            need(call["id"] not in open_calls, "two calls with one id")
            need(IDENTIFIER.fullmatch(call["function"]["name"]) is not None, "a name that no tool may have")
            need(isinstance(json.loads(call["function"]["arguments"]), dict), "arguments that are no object")
            open_calls.add(call["id"])
        before = role
    need(not open_calls, "a call without its result")


def blocks(message: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    content = message["content"]
    return [] if isinstance(content, str) else [block for block in content if block["type"] == kind]


def anthropic_order(body: dict[str, Any]) -> None:
    """Users and assistants by turns; a message begins with the results of all calls of the one before it."""
    messages = body["messages"]
    roles = [message["role"] for message in messages]
    need(roles[:1] == ["user"], "the conversation does not begin with the user")
    need(all(one != other for one, other in zip(roles, roles[1:])), "two messages of one role in a row")
    need(roles[-1] == "user", "nothing is asked: the last message is the model's")
    calls: list[str] = []
    for message in messages:
        results = [block["tool_use_id"] for block in blocks(message, "tool_result")]
        first = message["content"][: len(results)] if results else []
        need(all(block["type"] == "tool_result" for block in first), "a result behind something else")
        need(sorted(results) == sorted(calls), "calls and results that do not pair")
        calls = [block["id"] for block in blocks(message, "tool_use")]
        need(len(set(calls)) == len(calls), "two calls with one id")
        for call in blocks(message, "tool_use"):
            need(IDENTIFIER.fullmatch(call["id"]) is not None, "an id that no call may have")
            need(IDENTIFIER.fullmatch(call["name"]) is not None, "a name that no tool may have")
        for text in blocks(message, "text"):
            need(bool(text["text"].strip()), "a text without a visible character")
    marks = json.dumps(body).count('"cache_control":')
    need(marks <= MOST_CACHE_MARKS, f"{marks} marks for the cache")


def judges() -> dict[str, Any]:
    forbid_unknown_fields()
    chat = openai_types.completion_create_params.CompletionCreateParamsStreaming
    messages = anthropic_types.message_create_params.MessageCreateParamsStreaming
    return {"openai": (TypeAdapter(chat), openai_order), "anthropic": (TypeAdapter(messages), anthropic_order)}


def verdict(types: Any, order: Any, body: Any) -> str:
    try:
        exhaust(types.validate_python(body, strict=True))
        order(body)
    except (ValidationError, Wrong, ValueError) as error:
        return str(error) or repr(error)
    return ""


def main() -> None:
    known = judges()
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(verdict(*known[request["wire"]], request["body"])))


main()
