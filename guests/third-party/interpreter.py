"""An interpreter of scripts in Python, for componentize-py: `main(input, context)` of a source is what is called."""

import ast
import builtins
import io
import json
import random
import sys
import traceback
from types import SimpleNamespace

import wit_world
from componentize_py_types import Err
from wit_world import Cause, Failure, Value_Bytes, Value_Json
from wit_world.imports import host, tasks

NAME = "script"
OUTCOMES = {"Nothing": lambda _: None, "Bytes": lambda it: it.value, "Number": lambda it: it.value}
main = None


def fail(cause: Cause, message: str, error: BaseException | None = None) -> Err:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == NAME] if error else []
    stack = "\n".join(f"{f.name} ({NAME}:{f.lineno}:{(f.colno or 0) + 1})" for f in reversed(frames))
    line, column = (frames[-1].lineno, (frames[-1].colno or 0) + 1) if frames else (0, 0)
    if isinstance(error, SyntaxError):
        line, column = error.lineno or 0, error.offset or 0
    return Err(Failure(cause, type(error).__name__ if error else "", message, line, column, stack))


def threw(error: BaseException) -> Err:
    if isinstance(error, MemoryError):
        return fail(Cause.OUT_OF_MEMORY, "out of memory", error)
    return fail(Cause.THROWN, str(error), error)


class Log(io.TextIOBase):
    """What a script prints, line by line."""

    def __init__(self, level: host.Level):
        self.level, self.rest = level, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            host.log(self.level, line)
        return len(text)


def do(task):
    """Begins something at the host, and waits for it."""
    begun = tasks.begin(task)
    if begun is None:
        raise RuntimeError("too much is under way at once")
    while (over := tasks.wait())[0] != begun:
        pass
    outcome = over[1]
    kind = type(outcome).__name__.removeprefix("Outcome_")
    if kind == "Failed":
        raise PermissionError(f"{outcome.value.name}: {outcome.value.message}")
    return OUTCOMES[kind](outcome)


class Bucket:
    def get(self, key: str):
        found = do(tasks.Task_Get(tasks.Entry(None, key)))
        return None if found is None else json.loads(found)

    def set(self, key: str, value) -> None:
        do(tasks.Task_Set((tasks.Entry(None, key), json.dumps(value).encode())))

    def increment(self, key: str, by: int = 1) -> int:
        return do(tasks.Task_Increment((tasks.Entry(None, key), by)))


class WitWorld(wit_world.WitWorld):
    def compile(self, source: str) -> bytes:
        try:
            tree = ast.parse(source, NAME)
            compile(tree, NAME, "exec")
        except SyntaxError as error:
            raise fail(Cause.SYNTAX, error.msg, error)
        if not any(isinstance(node, (ast.FunctionDef, ast.Assign)) for node in tree.body):
            raise fail(Cause.NO_FUNCTION, "it defines no function; write `def main(input, context): ..`")
        return source.encode()

    def load(self, code: bytes, options: wit_world.Options, seed: int, salt: int) -> None:
        global main
        random.seed(seed)
        sys.stdout, sys.stderr = Log(host.Level.INFO), Log(host.Level.ERROR)
        names = {"__name__": NAME, "__builtins__": builtins, "kv": Bucket(), "config": host.config}
        try:
            exec(compile(code.decode(), NAME, "exec"), names)
        except Exception as error:
            raise threw(error)
        main = names.get("main")
        if not callable(main):
            raise fail(Cause.NO_FUNCTION, "its `main` is no function; write `def main(input, context): ..`")

    def run(self, input: wit_world.Value) -> wit_world.Value:
        try:
            given = json.loads(input.value) if isinstance(input, Value_Json) else input.value
            call = host.context()
            result = main(given, SimpleNamespace(function=call.function, tenant=call.tenant, call_id=call.id))
        except Exception as error:
            raise threw(error)
        if isinstance(result, (bytes, bytearray)):
            return Value_Bytes(bytes(result))
        try:
            return Value_Json(json.dumps(result, allow_nan=False).encode())
        except (TypeError, ValueError, RecursionError) as error:
            raise fail(Cause.NO_JSON, str(error), error)
