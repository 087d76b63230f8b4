"""The instruction of a DSPy program, tuned by stableprompt."""

import argparse

import dspy
from dspy import lm15
from stand_in import WORDS, answer

from stableprompt import load_bundled
from stableprompt.integrations.dspy import StablePrompt


class StandIn:
    """Speaks as DSPy's engines do; ``dspy.LM("openai/gpt-4o-mini")`` needs none of this."""

    def complete(self, request: lm15.Request) -> lm15.Response:
        """The team, in the form that DSPy's adapter asks for."""
        text = request.messages[-1].text or ""
        text = text.split("[[ ## message ## ]]")[-1].split("\n\n")[0]
        team = answer([{"content": str(request.system)}, {"content": text}])
        said = f"[[ ## team ## ]]\n{team}\n\n[[ ## completed ## ]]"
        usage = lm15.Usage(input_tokens=0, output_tokens=0, total_tokens=0)
        message = lm15.Message.assistant(said)
        return lm15.Response(
            id=None, model=request.model, message=message, finish_reason="stop", usage=usage
        )


def right_team(example: dspy.Example, prediction: dspy.Prediction) -> float:
    """1 for the right team."""
    return float(prediction.team == example.team)


def main(agent: str) -> dspy.Module:
    """Compile a program of one predictor."""
    task = load_bundled("support")
    rows = [
        dspy.Example(message=e.text, team=e.label).with_inputs("message")
        for e in (*task.train, *task.validation)
    ][:90]
    student = dspy.Predict(dspy.Signature("message -> team", f"One of {', '.join(WORDS)}."))
    lm = dspy.LM("stand-in", engine=StandIn(), cache=False, num_retries=0)
    with dspy.context(lm=lm):
        optimizer = StablePrompt(
            right_team,
            agent=agent,
            method="best-of-n",
            steps=1,
            ppo={"prompts_per_step": 4},
            selection={"num_finalists": 2},
        )
        compiled = optimizer.compile(student, trainset=rows)
        print(f"instruction: {compiled.signature.instructions}")
        print(f"test: {optimizer.result.test.score:.3f}, before: ", end="")
        print(f"{optimizer.result.seed_test.score:.3f}")
        print(compiled(message="I was charged twice").team)
    return compiled


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", default="smollm2-135m")
    main(parser.parse_args().agent)
