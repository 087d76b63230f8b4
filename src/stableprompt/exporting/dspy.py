"""A file with a program of DSPy whose target is sent exactly what was scored."""

import re

from stableprompt.exporting.pieces import variables
from stableprompt.exporting.python_source import comments, literal, messages_source
from stableprompt.exporting.shipped import ShippedPrompt

_SOURCE = '''\
import dspy

{messages}

class AsScored(dspy.Adapter):
    """Sends the messages that were scored, and takes the answer as it is."""

    def format(self, signature, demos, inputs):
        return messages({given})

    def parse(self, signature, completion):
        return {{{output!r}: completion.strip()}}


signature = dspy.Signature(
    {{
{fields}        {output!r}: (str, dspy.OutputField()),
    }},
    {instruction},
)


class Program(dspy.Module):
    """One predictor; its adapter puts the input into the prompt."""

    def __init__(self):
        super().__init__()
        self.predict = dspy.Predict(signature)

    def forward(self, **inputs):
        with dspy.context(adapter=AsScored()):
            return self.predict(**inputs)


program = Program()
'''


def to_dspy(shipped: ShippedPrompt) -> str:
    """``program``: call it with the fields of an input.

    DSPy's own adapters would put the prompt into a frame of theirs, which nobody has scored.
    """
    names = variables(shipped)
    output = "output" if "answer" in names.values() else "answer"
    fields = "".join(f"        {name!r}: (str, dspy.InputField()),\n" for name in names.values())
    if len(names) == 1:
        given = f"inputs[{next(iter(names.values()))!r}]"
    else:
        pairs = ", ".join(f"{field!r}: inputs[{name!r}]" for field, name in names.items())
        given = f"{{{pairs}}}"
    use = ", ".join(f"{name}=..." for name in names.values())
    source = _SOURCE.format(
        messages=messages_source(shipped),
        given=given,
        output=output,
        fields=fields,
        # For its reader; a signature must have one, and no template is applied to it.
        instruction=literal(re.sub(r"\s+\Z", "", shipped.instruction), 4),
    )
    return f"{comments(shipped)}# Use: program({use}).{output}\n\n{source}"
