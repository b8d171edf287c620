"""A generated corpus of English product and film reviews, for examples and tests.

Every review rates several aspects and gives one overall verdict. The verdict alone decides the
label, and much of it is said by composition (negation, contrast, hearsay), so that counting words
tells only part of the story. The words, the templates and the reviews are made up here.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Review:
    """One generated review.

    Attributes:
        text: two to six English sentences on one line.
        label: 1 for a positive and 0 for a negative review, after label noise.
        stars: 1, 2, 4 or 5; follows the verdict before label noise, and its intensity.
    """

    text: str
    label: int
    stars: int


@dataclass(frozen=True)
class Lexicon:
    """Words of one polarity; "strong" ones earn 1 or 5 stars, the others 2 or 4."""

    mild: tuple[str, ...]
    strong: tuple[str, ...]
    nouns: tuple[str, ...]
    strong_nouns: tuple[str, ...]
    actions: tuple[str, ...]


@dataclass(frozen=True)
class Domain:
    """What reviews of products, or of films, are made from.

    Attributes:
        kinds: the aspects of each kind of goods; a plural aspect is one that ends in "s".
        lexicons: the negative words and the positive words, indexed by the polarity.
        asides: sentence templates that say nothing about quality.
    """

    kinds: dict[str, tuple[str, ...]]
    lexicons: tuple[Lexicon, Lexicon]
    asides: tuple[str, ...]


def _row(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


PRODUCTS = Domain(
    kinds={
        "phone": _row("screen, battery, camera, speaker, buttons, menus, signal, charger"),
        "laptop": _row("keyboard, screen, battery, fan, hinge, speakers, webcam, lid"),
        "kettle": _row("handle, spout, lid, switch, cable, base, filter, design"),
        "backpack": _row("straps, zips, pockets, lining, fabric, colour, shape, stitching"),
        "radio": _row("sound, dial, aerial, display, speaker, buttons, signal, design"),
        "headset": _row("sound, cushions, cable, fit, microphone, controls, case, design"),
        "vacuum cleaner": _row("hose, filter, wheels, brushes, motor, cable, handle, switch"),
    },
    lexicons=(
        Lexicon(
            mild=_row("bad, poor, weak, clumsy, flimsy, annoying"),
            strong=_row("terrible, awful, horrible, useless"),
            nouns=_row("failure, mistake, disappointment, nuisance, bad buy"),
            strong_nouns=_row("disaster, nightmare, complete waste of money, total failure"),
            actions=_row("send it back, ask for a refund, warn my friends about it, regret the purchase"),
        ),
        Lexicon(
            mild=_row("good, nice, solid, clever, handy, pleasant"),
            strong=_row("excellent, superb, brilliant, perfect"),
            nouns=_row("success, bargain, pleasure, winner, good buy"),
            strong_nouns=_row("triumph, dream, complete joy, total success"),
            actions=_row("buy it again, recommend it, tell my friends to get one, give one as a present"),
        ),
    ),
    asides=(
        "It arrived on a {day}.",
        "I bought it in a shop near the {place}.",
        "It did not come with a spare cable.",
        "My {person} ordered the same one in {colour}.",
        "The parcel was left with my {person}.",
        "I had never owned a {kind} before.",
        "I paid for it with a gift card from my {person}.",
        "Mine is the {colour} one.",
        "I keep it in the {room}.",
        "It replaced a {kind} that I had for {number} years.",
        "I have used it for {number} weeks now.",
        "My {person} uses it in the {room} every {day}.",
    ),
)

FILMS = Domain(
    kinds={
        kind: _row(aspects + ", plot, acting, music, ending, dialogue, camera work, cast, script")
        for kind, aspects in {
            "film": "opening, costumes",
            "thriller": "chases, mystery",
            "comedy": "jokes, timing",
            "drama": "characters, romance",
            "western": "landscapes, horses",
            "documentary": "interviews, pictures",
            "musical": "songs, dances",
        }.items()
    },
    lexicons=(
        Lexicon(
            mild=_row("bad, dull, tedious, weak, clumsy, stale"),
            strong=_row("terrible, awful, horrible, unbearable"),
            nouns=_row("failure, mistake, disappointment, bore, letdown"),
            strong_nouns=_row("disaster, nightmare, complete waste of time, total failure"),
            actions=_row("leave before the end, ask for a refund, warn my friends about it, forget it"),
        ),
        Lexicon(
            mild=_row("good, charming, gripping, clever, lively, fresh"),
            strong=_row("excellent, superb, brilliant, perfect"),
            nouns=_row("success, treat, pleasure, delight, winner"),
            strong_nouns=_row("triumph, masterpiece, complete joy, total success"),
            actions=_row("watch it again, recommend it, tell my friends to see it, buy it for my shelf"),
        ),
    ),
    asides=(
        "We saw it on a {day}.",
        "My {person} came with me.",
        "The cinema is near the {place}.",
        "I had not read the book.",
        "My {person} chose it.",
        "I had never seen a {kind} with my {person} before.",
        "There were {number} people in our row.",
        "I watched it at home in the {room}.",
        "The seats in our cinema are {colour}.",
        "It came out {number} years ago.",
        "My {person} paid for the tickets.",
        "We took the bus from the {place}.",
    ),
)

DOMAINS = (PRODUCTS, FILMS)
ASIDE_WORDS = {
    "day": _row("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "place": _row("station, market, school, park, harbour, library, bridge, museum"),
    "person": _row("sister, brother, mother, father, neighbour, uncle, aunt, cousin, flatmate"),
    "colour": _row("red, blue, green, grey, black, white, brown"),
    "room": _row("kitchen, office, bedroom, hall, garage, living room"),
    "number": _row("two, three, four, five, six, seven, eight"),
}
LEADS = ("Overall, ", "All in all, ", "In the end, ", "On balance, ", "To sum up, ", "")
NEGATIONS = ("not", "not", "hardly", "far from", "anything but")
PLAIN_OPINIONS = (
    "the {aspect} {be} {adjective}",
    "the {aspect} {be} quite {adjective}",
    "the {aspect} {seem} {adjective}",
    "I found the {aspect} {adjective}",
    "I would call the {aspect} {adjective}",
)
NEGATED_OPINIONS = (
    "the {aspect} {be} {negation} {adjective}",
    "the {aspect} {be} {negation} {adjective}",
    "the {aspect} never {seem} {adjective}",
    "I never found the {aspect} {adjective}",
    "I would not call the {aspect} {adjective}",
)
CONTRASTS = ("{first}, but {second}", "although {first}, {second}", "{second}, although {first}")
PLAIN_VERDICTS = ("it is {verdict}", "for me it is {verdict}", "I would {action}")
NEGATED_VERDICTS = (
    "it is {negation} {opposite}",
    "for me it is {negation} {opposite}",
    "I would not {opposite_action}",
    "I would never {opposite_action}",
)
CONTRASTED_VERDICTS = (
    "I expected {opposite}, but it is {verdict}",
    "it is {verdict}, although I expected {opposite}",
    "it is {verdict} and not {opposite}",
    "it is not {opposite} but {verdict}",
    "my {person} called it {opposite}, but I think it is {verdict}",
)
HEARSAY_VERDICTS = (
    "my {person} called it {verdict}, and I agree",
    "my {person} called it {opposite}, but I disagree",
)
VERDICTS = (PLAIN_VERDICTS, NEGATED_VERDICTS, CONTRASTED_VERDICTS, HEARSAY_VERDICTS)
VERDICT_WEIGHTS = (55, 25, 15, 5)
AGREEMENT = 0.92  # chance that the main opinion of a sentence has the polarity of the verdict
NEGATED_SHARE = 0.25


def generate_reviews(
    count: int, seed: int, label_noise: float = 0.0, domains: Sequence[Domain] = DOMAINS, extra_sentences: int = 0
) -> list[Review]:
    """Return `count` reviews, half of them positive on average.

    The same `seed` gives the same reviews, and a longer corpus starts with the shorter one. With `extra_sentences` they
    are the same reviews, with these in between.

    Args:
        count: number of reviews, at least 1.
        seed: seed of the corpus; its sign is ignored.
        label_noise: probability, in [0, 0.5), that a label is flipped. It changes no text.
        domains: what is reviewed, each as often.
        extra_sentences: without an opinion, of about eight words, in each review; the verdict stays its first or last
            sentence.

    Raises:
        ValueError: `count`, `label_noise` or `extra_sentences` is out of range.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not 0.0 <= label_noise < 0.5:
        raise ValueError(f"label_noise must be in [0, 0.5), got {label_noise}")
    if extra_sentences < 0:
        raise ValueError(f"extra_sentences must be at least 0, got {extra_sentences}")
    rng, extra_rng = random.Random(seed), random.Random(f"extra sentences {seed}")
    noise_rng = random.Random(f"label noise {seed}")

    def review() -> Review:
        return _review(rng, noise_rng.random() < label_noise, domains, extra_rng, extra_sentences)

    return [review() for _ in range(count)]


def _review(
    rng: random.Random, flipped: bool, domains: Sequence[Domain], extra_rng: random.Random, extra_sentences: int
) -> Review:
    polarity = rng.randrange(2)
    domain = rng.choice(domains)
    kind = rng.choice(tuple(domain.kinds))
    verdict, strong = _verdict(rng, domain, kind, polarity)
    body = _opinions(rng, domain, kind, polarity) + _asides(rng, domain, kind)
    rng.shuffle(body)
    for _ in range(extra_sentences):
        aside = extra_rng.choice(domain.asides).format(kind=kind, **_aside_words(extra_rng))
        body.insert(extra_rng.randrange(len(body) + 1), aside)
    sentences = [verdict, *body] if rng.random() < 0.25 else [*body, verdict]
    stars = (4 if polarity else 2) + strong * (1 if polarity else -1)
    return Review(" ".join(sentences), label=polarity ^ flipped, stars=stars)


def _opinions(rng: random.Random, domain: Domain, kind: str, polarity: int) -> list[str]:
    """Return one to three sentences on aspects, whose polarities may differ from the verdict's."""
    aspects = iter(rng.sample(domain.kinds[kind], 6))
    sentences = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        main = polarity if rng.random() < AGREEMENT else 1 - polarity
        clause = _opinion(rng, domain.lexicons, next(aspects), main)
        form = rng.random()
        if form < 0.25:
            other = _opinion(rng, domain.lexicons, next(aspects), 1 - main)
            clause = rng.choice(CONTRASTS).format(first=other, second=clause)
        elif form < 0.6:
            clause += " and " + _opinion(rng, domain.lexicons, next(aspects), main)
        sentences.append(_sentence(clause))
    return sentences


def _opinion(rng: random.Random, lexicons: tuple[Lexicon, Lexicon], aspect: str, polarity: int) -> str:
    plural = aspect.endswith("s")
    negated = rng.random() < NEGATED_SHARE
    lexicon = lexicons[polarity ^ negated]
    # "Not excellent" is no clear blame, so only mild words are negated.
    adjectives = lexicon.mild if negated or rng.random() < 0.7 else lexicon.strong
    return rng.choice(NEGATED_OPINIONS if negated else PLAIN_OPINIONS).format(
        aspect=aspect,
        be="are" if plural else "is",
        seem="seem" if plural else "seems",
        negation=rng.choice(NEGATIONS),
        adjective=rng.choice(adjectives),
    )


def _verdict(rng: random.Random, domain: Domain, kind: str, polarity: int) -> tuple[str, bool]:
    """Return the sentence that decides the label, and whether it is a strong one."""
    templates = rng.choices(VERDICTS, VERDICT_WEIGHTS)[0]
    template = rng.choice(templates)
    own, other = domain.lexicons[polarity], domain.lexicons[1 - polarity]
    strong = "{verdict}" in template and rng.random() < 0.4
    clause = template.format(
        verdict=_judgement(rng, own, kind, strong),
        opposite=_judgement(rng, other, kind, strong=False),
        action=rng.choice(own.actions),
        opposite_action=rng.choice(other.actions),
        negation=rng.choice(NEGATIONS),
        person=rng.choice(ASIDE_WORDS["person"]),
    )
    return _sentence(rng.choice(LEADS) + clause), strong


def _judgement(rng: random.Random, lexicon: Lexicon, kind: str, strong: bool) -> str:
    """Return a noun phrase with its article, such as "a bargain" or "an awful film"."""
    if rng.random() < 0.5:
        phrase = rng.choice(lexicon.strong_nouns if strong else lexicon.nouns)
    else:
        phrase = rng.choice(lexicon.strong if strong else lexicon.mild) + " " + kind
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _asides(rng: random.Random, domain: Domain, kind: str) -> list[str]:
    words = _aside_words(rng)
    templates = rng.sample(domain.asides, rng.choice((0, 0, 1, 2)))
    return [template.format(kind=kind, **words) for template in templates]


def _aside_words(rng: random.Random) -> dict[str, str]:
    return {name: rng.choice(values) for name, values in ASIDE_WORDS.items()}


def _sentence(clause: str) -> str:
    return clause[0].upper() + clause[1:] + "."
