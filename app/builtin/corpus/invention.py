"""Words and names that mean nothing, so that the model meets the unfamiliar without end."""

import random

ONSETS = "b bl br c cr d dr f fl g gl gr h j k kl kr l m n p pl qu r s sh sk st t tr v w x y z zh th".split()
VOWELS = "a e i o u a e i o u ai ea ee oo ou y".split()
CODAS = ["", "", "", "", *"b d g k l m n p r s t x ck ff ld lt mp nd ng nk rn rt sk st th".split()]
LAND_ENDINGS = ["land", "ia", "stan", "istan", "ania", "oria", "ova", "ea", "ar", "onia", "burg", ""]
FIRST_NAMES = (
    "Peter John Maria Anna Paul Laura David Emma Lukas Sofia Tom Clara Hans Olga Ivan Carlos Ana Pedro "
    "Yuki Chen Amina Omar Fatima Ravi Priya Kofi Ngozi Erik Ingrid Pierre Marie Jack Alice Henry Rose "
    "George Frank Karen Susan Walter Martin Julia Victor Nina Oscar Elena Hugo Mila Felix Greta Leo Ida"
).split()
HELD_OUT_FIRST_NAMES = "Barnaby Ottilie Casimir Philippa Thaddeus Rosalind Leopold Winifred Ignatius Saskia".split()


def made_up_word(rng: random.Random, syllables: int | None = None) -> str:
    count = rng.randint(1, 3) if syllables is None else syllables
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(count))


def made_up_place(rng: random.Random) -> str:
    return (made_up_word(rng, rng.randint(1, 2)) + rng.choice(LAND_ENDINGS)).capitalize()


def stranger(rng: random.Random, held_out: bool = False) -> str:
    """A person nobody has heard of."""
    first = rng.choice(HELD_OUT_FIRST_NAMES if held_out else FIRST_NAMES)
    if rng.random() < 0.2:
        first = made_up_word(rng, 2).capitalize()
    return f"{first} {made_up_word(rng, rng.randint(1, 2)).capitalize()}"
