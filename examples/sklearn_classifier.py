"""A prompt as an estimator of scikit-learn: fit, predict, cross-validation."""

import argparse

from stand_in import answer

from stableprompt import PromptClassifier, load_bundled


def main(agent: str) -> None:
    """Fit on part of the bundled messages, predict the rest."""
    from sklearn.model_selection import cross_val_score, train_test_split

    task = load_bundled("support")
    examples = [*task.train, *task.validation, *task.test]
    texts = [example.text for example in examples]
    teams = [example.label for example in examples]
    train_x, test_x, train_y, test_y = train_test_split(texts, teams, random_state=0)

    classifier = PromptClassifier(
        target=answer,
        agent=agent,
        seed_prompt="Sort the message.",
        method="best-of-n",
        steps=1,
        settings={"ppo": {"prompts_per_step": 4}},
    )
    classifier.fit(train_x, train_y)
    print(f"prompt: {classifier.prompt_}")
    print(f"on its own test part: {classifier.result_.test.score:.3f}")
    print(f"on other messages: {classifier.score(test_x, test_y):.3f}")

    fixed = classifier.set_params(method="seed", seed_prompt="Which team?")
    print(
        f"another prompt, cross-validated: {cross_val_score(fixed, texts, teams, cv=2).mean():.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", default="smollm2-135m")
    main(parser.parse_args().agent)
