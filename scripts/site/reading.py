"""Extensions of griffe, which reads the source for the reference: fnn's own habits.

It knows `@dataclass` and `field`, but not `@layer`, `@pytree` and `leaf`; and of the
sections of a docstring it knows "Examples:", where the house writes "Example:".
"""

import re
from typing import Any

import griffe

__all__ = ["HouseStyle"]

DATACLASSES = {"layer", "pytree"}


class HouseStyle(griffe.Extension):
    """Translate fnn's habits into what griffe expects."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Let examples be code, and let an equation be code, too."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
            obj.docstring.value = text

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Show what `@layer` and `@pytree` make dataclasses with their arguments."""
        names = {
            decorator.callable_path.rpartition(".")[2] for decorator in cls.decorators
        }
        if not names & DATACLASSES:
            return
        dataclass = griffe.ExprName("dataclasses.dataclass")
        cls.decorators.append(griffe.Decorator(dataclass, lineno=None, endlineno=None))
        for member in cls.members.values():
            if member.is_attribute and isinstance(member.value, griffe.ExprCall):
                as_field(member.value)


def as_field(call: griffe.ExprCall) -> None:
    """Write `leaf(0.5)` as `field(default=0.5)`, in place."""
    if str(call.function) != "leaf":
        return
    call.function = griffe.ExprName("dataclasses.field")
    call.arguments = [
        argument
        if isinstance(argument, griffe.ExprKeyword)
        else griffe.ExprKeyword("default", argument)
        for argument in call.arguments
    ]
