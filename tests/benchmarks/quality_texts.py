"""The texts over which quality is measured: this project's own documents, and 50 prompts."""

from tests.server import ROOT

_DOCUMENTS = (
    "docs/architecture.md",
    "docs/models.md",
    "docs/operations.md",
    "docs/terminal.md",
    "docs/troubleshooting.md",
    "docs/api.md",
    "docs/settings.md",
    "docs/development.md",
    "app/builtin/weights/README.md",
    "tests/benchmarks/README.md",
    "README.md",
    "CHANGELOG.md",
)

PROMPTS = (
    *(
        f"What is the capital of {country}?"
        for country in (
            "France",
            "Japan",
            "Egypt",
            "Peru",
            "Norway",
            "Kenya",
            "Italy",
            "Canada",
            "India",
            "Poland",
        )
    ),
    *(
        f"What is {first} plus {second}?"
        for first, second in ((2, 3), (10, 15), (7, 8), (100, 20), (12, 12), (31, 9), (44, 6), (5, 5))
    ),
    *(
        f"What is the opposite of {word}?"
        for word in ("hot", "tall", "happy", "fast", "empty", "early", "rich", "dry")
    ),
    *(
        f"Explain in one sentence what {thing} is."
        for thing in ("a river", "gravity", "a computer", "bread", "music", "a vote")
    ),
    *(f"Name three {things}." for things in ("fruits", "colours", "animals", "planets", "tools", "rivers")),
    "Write a short poem about the sea.",
    "Write a haiku about winter.",
    "Who wrote Romeo and Juliet?",
    "Translate 'good morning' into French.",
    "How many days does a week have?",
    "Which is larger, the sun or the moon?",
    "Give me a tip for sleeping better.",
    "Write a Python function that adds two numbers.",
    "What should I cook with rice and tomatoes?",
    "Say hello in Spanish.",
    "Why is the sky blue?",
    "My name is Ada. What is my name?",
)


def document_text() -> str:
    """Returns the documents, one after the other."""
    return "\n\n".join((ROOT / name).read_text(encoding="utf-8") for name in _DOCUMENTS)
