"""For componentize-py."""
import wit_world
from componentize_py_types import Err


class WitWorld(wit_world.WitWorld):
    def handle(self, input: str) -> str:
        if input == "":
            raise Err("nothing to do")
        if input.startswith("print"):
            print(input, flush=True)
        return input.upper()
