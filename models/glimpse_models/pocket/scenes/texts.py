"""What signs and plates say: known words, random letter strings and numbers, each belonging to one split."""

from __future__ import annotations

import zlib
from random import Random
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
NUMBER_LENGTH = 3
LONGEST_TEXT = 5
RANDOM_WORD_SHARE = 0.5

_TRAIN_WORDS = """
STOP EXIT OPEN SALE TAXI PARK HOTEL CAFE BANK FOOD FISH BREAD MILK BOOK SHOP ROAD BUS TRAIN MUSIC PIZZA
TEA ICE ZOO GOLD KING QUEEN JAZZ FILM WINE BEER LAKE HILL FARM NORTH SOUTH EAST WEST WATER FIRE SLOW FAST
HELP WAIT QUIET PULL PUSH SALT SUGAR HONEY APPLE LEMON MANGO PEACH GRAPE ROSE LILY OAK ELM MOON STAR SUN
CITY TOWN HOUSE HOME DOOR ROOM BATH POOL GYM GAME TOYS BIKE SHIP PORT DOCK BOAT SAIL WIND RAIN SNOW
CLOUD BIRD DUCK SWAN LION TIGER ZEBRA HORSE SHEEP GOAT FROG CRAB WOLF BEAR PANDA KIWI PLUM CORN RICE SOUP
MEAT EGG CAKE PIE JAM NUT OIL BAR PUB INN SPA VAN CAR JET KEY MAP BOX BAG HAT CAP TIE COAT SHOE
"""
_VALIDATION_WORDS = """
RIVER LIGHT PAPER FLUTE KNIFE TOWER DANCE ONION SPICE ARCH LAMP DESK CORK FOX OWL WEB PEN MUD
"""
_TEST_WORDS = """
PARIS TOKYO OSLO QUIZ VIDEO JUICE FLAG EXTRA BAKER TULIP SIXTY DRUM CHEF YOGA PILOT BEACH METRO LUNCH
SKY INK FLY HUB GEM WAX
"""
WORDS: dict[Split, tuple[str, ...]] = {
    "train": tuple(_TRAIN_WORDS.split()),
    "validation": tuple(_VALIDATION_WORDS.split()),
    "test": tuple(_TEST_WORDS.split()),
}
_LISTED = {word: split for split in SPLITS for word in WORDS[split]}


def split_of(text: str) -> Split:
    """Return the split a sign or plate text belongs to: by list if listed, else by its checksum (8:1:1)."""
    if text in _LISTED:
        return _LISTED[text]
    bucket = zlib.crc32(text.encode()) % 10
    return "train" if bucket < 8 else "validation" if bucket == 8 else "test"


def random_text(rng: Random, alphabet: str, length: int, split: Split) -> str:
    """Draw a string of ``length`` characters that belongs to ``split``."""
    while True:
        text = "".join(rng.choice(alphabet) for _ in range(length))
        if split_of(text) == split:
            return text


def sign_text(rng: Random, split: Split) -> str:
    """Draw what a sign says: a listed word of the split, or as often 3 to 5 random letters."""
    if rng.random() < RANDOM_WORD_SHARE:
        return random_text(rng, LETTERS, rng.randint(3, LONGEST_TEXT), split)
    return rng.choice(WORDS[split])


def plate_text(rng: Random, split: Split) -> str:
    """Draw the number on a plate."""
    return random_text(rng, DIGITS, NUMBER_LENGTH, split)
