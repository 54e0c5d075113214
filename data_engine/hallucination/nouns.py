"""Common nouns that the embedded classifier can look for, and the ImageNet classes that show each.

Only things that normally fill a picture are listed. A class is counted for every noun that it could be taken
for, so that a wrong breed, or an ox for a cow, is no hallucination. People are no class of ImageNet.
"""

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from data_engine.scores.classifier import imagenet_labels


class NounGroup(NamedTuple):
    """Words for one kind of thing. Names of classes are words for it as well, if `takes_labels`."""

    words: str
    classes: str
    """Indices and ranges of ImageNet classes."""
    takes_labels: bool = True


_GROUPS = {
    # Animals
    "fish": NounGroup("fish, fishes", "0-4 389-397"),
    "shark": NounGroup("shark", "2-4"),
    "bird": NounGroup(
        "bird, eagle, owl, duck, goose, geese, swan, parrot, chicken, rooster, peacock, heron, stork, crow, "
        "pigeon, seagull, sparrow, hawk, songbird",
        "7-24 80-100 127-146",
    ),
    "penguin": NounGroup("penguin", "145"),
    "frog": NounGroup("frog, toad", "30-32"),
    "turtle": NounGroup("turtle, tortoise", "33-37"),
    "lizard": NounGroup("lizard, gecko, iguana", "25-29 38-48"),
    "crocodile": NounGroup("crocodile, alligator", "44 48-50"),
    "snake": NounGroup("snake, python, cobra", "52-68"),
    "spider": NounGroup("spider", "70 72-77 815"),
    "kangaroo": NounGroup("kangaroo", "104"),
    "koala": NounGroup("koala", "105"),
    "jellyfish": NounGroup("jellyfish", "107-108"),
    "snail": NounGroup("snail", "112-115 117"),
    "crab": NounGroup("crab", "118-121 125"),
    "lobster": NounGroup("lobster, crayfish", "118-125"),
    "whale": NounGroup("whale, dolphin, orca", "147-149"),
    "seal": NounGroup("sea lion, walrus", "149-150 360"),
    "dog": NounGroup(
        "dog, puppy, hound, terrier, retriever, labrador, poodle, bulldog, sheepdog, spaniel, german shepherd",
        "151-268 273-275",
    ),
    "wolf": NounGroup("wolf, wolves, coyote", "248-250 269-275", takes_labels=False),
    "fox": NounGroup("fox", "272 277-280"),
    "hyena": NounGroup("hyena", "275-276"),
    "cat": NounGroup("cat, kitten", "281-285 287"),
    "lion": NounGroup("lion, lioness", "286 291"),
    "tiger": NounGroup("tiger", "282 292", takes_labels=False),
    "leopard": NounGroup("leopard, jaguar, cheetah, panther", "286-290 293"),
    "bear": NounGroup("bear, grizzly", "294-297 388"),
    "panda": NounGroup("panda", "387-388"),
    "beetle": NounGroup("beetle, ladybird", "300-307"),
    "bee": NounGroup("bee, bumblebee, honeybee, wasp, hornet", "308-310 599", takes_labels=False),
    "ant": NounGroup("ant", "310"),
    "grasshopper": NounGroup("grasshopper, locust", "311-313 315"),
    "dragonfly": NounGroup("dragonfly", "318-320"),
    "butterfly": NounGroup("butterfly", "321-326"),
    "starfish": NounGroup("starfish", "327"),
    "rabbit": NounGroup("rabbit, bunny, hare", "104 330-332"),
    "hamster": NounGroup("hamster, guinea pig", "333 338"),
    "squirrel": NounGroup("squirrel, chipmunk", "335-336"),
    "hedgehog": NounGroup("hedgehog, porcupine", "102 334", takes_labels=False),
    "horse": NounGroup("horse, pony, stallion, mare", "339 603"),
    "zebra": NounGroup("zebra", "340"),
    "pig": NounGroup("pig, piglet, boar", "341-343"),
    "hippopotamus": NounGroup("hippopotamus, hippo", "344"),
    "cow": NounGroup("cow, cattle, calf, calves, bull, buffalo", "345-347"),
    "sheep": NounGroup("sheep, lamb, goat", "348-350"),
    "antelope": NounGroup("antelope, gazelle, impala, deer", "350-353"),
    "camel": NounGroup("camel", "354-355"),
    "llama": NounGroup("llama, alpaca", "354-355", takes_labels=False),
    "otter": NounGroup("otter, weasel, ferret", "356-360"),
    "sloth": NounGroup("sloth", "364"),
    "monkey": NounGroup("monkey, ape", "365-384"),
    "elephant": NounGroup("elephant", "101 385-386"),
    # Vehicles
    "car": NounGroup(
        "car, taxi, sedan, suv, van", "407 436 468 475 479 511 581 609 627 656 661 717 734 751 817"
    ),
    "truck": NounGroup("truck, lorry", "555 569 586 656 675 717 803 864 867"),
    "bus": NounGroup("bus, minibus", "654 675 757 779 829 874"),
    "train": NounGroup("train, locomotive, tram", "466 547 565 705 820 829 874"),
    "airplane": NounGroup("airplane, aeroplane, plane, aircraft, jet", "404-405 895 908"),
    "boat": NounGroup(
        "boat, ship, sailboat, yacht, canoe, kayak, ferry, vessel, submarine",
        "403 449 472 484 510 554 576 625 628 724 780 814 833 871 914",
    ),
    "bicycle": NounGroup("bicycle, bicyclist, cyclist", "444 612 671 870 880"),
    "bike": NounGroup("bike, biker", "444 612 665 670-671 870 880", takes_labels=False),
    "motorcycle": NounGroup(
        "motorcycle, motorbike, motorcyclist, scooter, moped", "518 665 670", takes_labels=False
    ),
    "tractor": NounGroup("tractor", "595 730 856 866", takes_labels=False),
    "rocket": NounGroup("rocket, missile, spaceship", "657 744 812"),
    # Food
    "coffee": NounGroup("coffee, cappuccino, latte", "504-505 550 967-968"),
    "cup": NounGroup("cup, teacup, mug", "504 725 967-968", takes_labels=False),
    "pizza": NounGroup("pizza", "963"),
    "burger": NounGroup("burger, hamburger", "933"),
    "hot dog": NounGroup("hot dog", "934"),
    "ice cream": NounGroup("ice cream, popsicle", "927-929"),
    "bread": NounGroup("bread, loaf, bagel, baguette", "415 930-932 961-962", takes_labels=False),
    "banana": NounGroup("banana", "954"),
    "apple": NounGroup("apple", "948 957"),
    "strawberry": NounGroup("strawberry", "949"),
    "pineapple": NounGroup("pineapple", "953"),
    "broccoli": NounGroup("broccoli, cauliflower", "937-938"),
    "mushroom": NounGroup("mushroom, toadstool", "947 991-997", takes_labels=False),
    "pumpkin": NounGroup("pumpkin", "607 940-942", takes_labels=False),
    # Things
    "guitar": NounGroup("guitar, guitarist, banjo", "402 420 546"),
    "piano": NounGroup("piano, pianist", "579 881"),
    "violin": NounGroup("violin, violinist, cello, cellist", "486 889"),
    "trumpet": NounGroup("trumpet, trombone, french horn", "513 566 776 875"),
    "saxophone": NounGroup("saxophone, saxophonist", "513 776"),
    "accordion": NounGroup("accordion", "401"),
    "harp": NounGroup("harp", "594"),
    "umbrella": NounGroup("umbrella, parasol", "879"),
    "teapot": NounGroup("teapot, kettle", "505 849"),
    "computer": NounGroup("laptop, computer, notebook computer", "508 527 590 620 664 681 782"),
    "television": NounGroup("television, tv set", "548 598 664 782 851", takes_labels=False),
    "refrigerator": NounGroup("refrigerator, fridge", "760"),
    "washing machine": NounGroup("washing machine", "534 897"),
    "bathtub": NounGroup("bathtub", "435 876"),
    "couch": NounGroup("couch, sofa", "765 831", takes_labels=False),
    "tent": NounGroup("tent", "672 915", takes_labels=False),
    "teddy bear": NounGroup("teddy bear, stuffed bear", "850"),
    "tripod": NounGroup("tripod", "872"),
    "hot-air balloon": NounGroup(
        "hot-air balloon, hot air balloon", "405 417 701", takes_labels=False
    ),
    "parachute": NounGroup("parachute", "417 701"),
    "carousel": NounGroup("carousel, merry-go-round", "476"),
    "lighthouse": NounGroup("lighthouse", "437 900"),
    "church": NounGroup(
        "church, cathedral, monastery, mosque, temple, pagoda, palace, castle",
        "442 483 497 538 663 668 698 832",
    ),
    "volcano": NounGroup("volcano", "970 974 980", takes_labels=False),
}

# Names of classes that are more often another word.
_NOT_NOUNS = frozenset(("boxer", "kite", "jay", "drake", "ram", "dome", "monitor"))
# What holds one of the nouns and shows none, and parts of speech that a word list cannot tell.
_IDIOMS = (
    *("bird's eye", "bird's-eye", "birds-eye", "bird eye", "fish eye", "fish-eye"),
    *("train station", "train tracks", "bus stop", "bus station", "car park", "coffee table"),
    *("cup holder", "computer animation", "computer animated", "computer-animated"),
    *("computer-generated", "computer generated", "computer graphics", "pumpkin orange"),
)
_NOT_SEEN = re.compile(
    r"\b(?:no|not|without|neither|nor|like)\s+(?:an?\s+|any\s+|the\s+)?(?:\w+\s+)?\Z"
)
_QUOTED = re.compile(r'"[^"]*"|\u201c[^\u201d]*\u201d')


@cache
def _words() -> dict[str, str]:
    """From each word or phrase, in singular and plural, to its group."""
    groups: dict[str, str] = {}
    for name, group in _GROUPS.items():
        for word in group.words.split(", "):
            groups.setdefault(word, name)
    for name, group in _GROUPS.items():
        if group.takes_labels:
            for label in _labels(class_indices(name)):
                groups.setdefault(label, name)
    for word in _NOT_NOUNS:
        groups.pop(word, None)
    return {_plural(word): name for word, name in groups.items()} | groups


def _labels(indices: Iterable[int]) -> Iterable[str]:
    for index in indices:
        without_note = imagenet_labels()[index].partition(" (")[0]
        yield from (part.lower() for part in without_note.split(" / "))


def _plural(word: str) -> str:
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x", "ch", "sh")) else f"{word}s"


@cache
def _pattern() -> re.Pattern[str]:
    # The longest first, so that a hot dog is no dog.
    phrases = sorted((*_words(), *_IDIOMS), key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, phrases))})(?![\w-])")


def nouns_in(text: str) -> dict[str, str]:
    """The known nouns of a text, each as its group and the words that name it first.

    What is quoted, denied (`no dog`) or a comparison (`like a dog`) is not mentioned as seen.
    """
    plain = _QUOTED.sub(" ", text).lower()
    found: dict[str, str] = {}
    for match in _pattern().finditer(plain):
        group = _words().get(match.group())
        if group is not None and not _NOT_SEEN.search(plain[: match.start()]):
            found.setdefault(group, match.group())
    return found


@cache
def class_indices(group: str) -> tuple[int, ...]:
    """The ImageNet classes that show a group, as columns of the probabilities of the classifier."""
    ranges = (part.partition("-") for part in _GROUPS[group].classes.split())
    return tuple(
        index for first, _, last in ranges for index in range(int(first), int(last or first) + 1)
    )
