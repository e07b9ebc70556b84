"""Words for `blimp.py`: common ones only, written for this project. Nothing but data."""

from __future__ import annotations

from typing import NamedTuple

WOMEN = ("Anna", "Maria", "Sarah", "Emma", "Nina", "Julia", "Laura", "Helen", "Rosa", "Alice")
MEN = ("Tom", "Peter", "David", "Paul", "Robert", "Martin", "James", "Daniel", "Simon", "Frank")


class Noun(NamedTuple):
    singular: str
    plural: str


def _regular(*nouns: str) -> tuple[Noun, ...]:
    return tuple(Noun(noun, noun + "s") for noun in nouns)


class Person(NamedTuple):
    """A noun with a gender: `reflexive` is what its singular takes."""

    singular: str
    plural: str
    reflexive: str


PEOPLE = (
    *_regular("teacher", "doctor", "farmer", "driver", "waiter", "singer", "painter", "sailor", "lawyer", "guard"),
    *_regular("student", "baker", "guest", "pilot", "writer", "dancer", "tourist", "gardener", "soldier", "actor"),
)
GENDERED = (
    *(Person(word, word + "s", "herself") for word in ("girl", "mother", "sister", "aunt", "queen", "daughter")),
    *(Person(word, word + "s", "himself") for word in ("boy", "father", "brother", "uncle", "king", "son")),
)
KIN = tuple(person for person in GENDERED if person.singular not in ("girl", "boy", "queen", "king"))
THINGS = (
    *_regular("chair", "table", "lamp", "book", "basket", "bottle", "blanket", "mirror", "hammer", "ladder", "ticket"),
    *_regular("jacket", "pillow", "candle", "carpet", "bucket", "picture", "suitcase", "cup", "radio"),
)
IRREGULAR_NOUNS = (
    *(Noun("child", "children"), Noun("woman", "women"), Noun("man", "men"), Noun("mouse", "mice")),
    *(Noun("goose", "geese"), Noun("tooth", "teeth"), Noun("knife", "knives"), Noun("leaf", "leaves")),
    *(Noun("shelf", "shelves"), Noun("wolf", "wolves"), Noun("loaf", "loaves"), Noun("scarf", "scarves")),
)
# A thing and what it belongs to; the second noun stands between subject and verb.
PARTS = (
    *((Noun("key", "keys"), "to", Noun("cabinet", "cabinets")), (Noun("label", "labels"), "on", Noun("box", "boxes"))),
    *((Noun("door", "doors"), "of", Noun("house", "houses")), (Noun("road", "roads"), "to", Noun("farm", "farms"))),
    *((Noun("window", "windows"), "of", Noun("car", "cars")), (Noun("photo", "photos"), "of", Noun("lake", "lakes"))),
    *((Noun("bridge", "bridges"), "over", Noun("canal", "canals")), (Noun("lid", "lids"), "of", Noun("pot", "pots"))),
    *((Noun("path", "paths"), "to", Noun("cave", "caves")), (Noun("shop", "shops"), "near", Noun("tower", "towers"))),
    *((Noun("button", "buttons"), "on", Noun("coat", "coats")), (Noun("tree", "trees"), "by", Noun("wall", "walls"))),
)
AGES = ("old", "young", "tall", "happy")
STATES = ("old", "small", "dirty", "beautiful", "new", "ugly", "clean", "strange", "famous", "dry")
LOOKS = ("old", "small", "heavy", "green", "cheap", "pretty", "broken", "strange", "yellow", "large")


class Action(NamedTuple):
    """What people do, without an object: plain form, past, -ing form, and where or how."""

    base: str
    past: str
    ing: str
    rest: str

    @property
    def third(self) -> str:
        return self.base + "s"


ACTIONS = (
    *(Action("wait", "waited", "waiting", "at the gate"), Action("dance", "danced", "dancing", "in the street")),
    *(Action("smile", "smiled", "smiling", "at the baby"), Action("walk", "walked", "walking", "to the station")),
    *(Action("work", "worked", "working", "in the garden"), Action("laugh", "laughed", "laughing", "at every joke")),
    *(Action("talk", "talked", "talking", "about the weather"), Action("cook", "cooked", "cooking", "on Sunday")),
    *(Action("play", "played", "playing", "after lunch"), Action("rest", "rested", "resting", "under the tree")),
    *(Action("travel", "traveled", "traveling", "by train"), Action("jump", "jumped", "jumping", "over the fence")),
    *(Action("shout", "shouted", "shouting", "from the roof"), Action("live", "lived", "living", "near the lake")),
    *(Action("climb", "climbed", "climbing", "up the hill"), Action("stay", "stayed", "staying", "at the hotel")),
)
REFLEXIVE_VERBS = ("hurt", "washed", "blamed", "praised", "defended", "surprised", "introduced", "trusted")
MET = ("helped", "met", "visited", "called", "followed", "thanked", "invited", "saw", "greeted", "warned")


class Task(NamedTuple):
    """A verb that needs its object: plain form, past, participle, -ing form, and an object."""

    base: str
    past: str
    participle: str
    ing: str
    object: str


TASKS = (
    *(Task("buy", "bought", "bought", "buying", "bread"), Task("fix", "fixed", "fixed", "fixing", "the roof")),
    *(Task("find", "found", "found", "", "gold"), Task("bring", "brought", "brought", "bringing", "cheese")),
    *(Task("make", "made", "made", "making", "soup"), Task("build", "built", "built", "building", "a boat")),
    *(Task("repair", "repaired", "repaired", "repairing", "the clock"), Task("want", "wanted", "wanted", "", "honey")),
    *(Task("catch", "caught", "caught", "catching", "fish"), Task("carry", "carried", "carried", "carrying", "water")),
    *(Task("use", "used", "used", "using", "a knife"), Task("borrow", "borrowed", "borrowed", "borrowing", "a car")),
)
MEANWHILE = (("drinking", "tea"), ("watching", "a film"), ("holding", "the baby"), ("wearing", "a hat"))
STRONG = (
    *(Task("eat", "ate", "eaten", "", "the apple"), Task("write", "wrote", "written", "", "the letter")),
    *(Task("take", "took", "taken", "", "the bus"), Task("break", "broke", "broken", "", "the cup")),
    *(Task("drive", "drove", "driven", "", "the truck"), Task("choose", "chose", "chosen", "", "the hat")),
    *(Task("steal", "stole", "stolen", "", "the bicycle"), Task("see", "saw", "seen", "", "the film")),
    *(Task("draw", "drew", "drawn", "", "the horse"), Task("sing", "sang", "sung", "", "the song")),
    *(Task("wear", "wore", "worn", "", "the coat"), Task("forget", "forgot", "forgotten", "", "the key")),
    *(Task("ride", "rode", "ridden", "", "the camel"), Task("hide", "hid", "hidden", "", "the box")),
    *(Task("tear", "tore", "torn", "", "the shirt"), Task("shake", "shook", "shaken", "", "the rug")),
)
# (needs an object, takes none, noun, preposition that suits the second verb)
TRANSITIVITY = (
    *(
        ("repaired", "slept", "roof", "on"),
        ("visited", "arrived", "hotel", "at"),
        ("built", "sneezed", "wall", "behind"),
    ),
    *(
        ("bought", "sat", "chair", "on"),
        ("cleaned", "knelt", "carpet", "on"),
        ("carried", "laughed", "basket", "about"),
    ),
    *(("found", "fell", "river", "into"), ("described", "appeared", "garden", "in"), ("owned", "lay", "tent", "in")),
    *(
        ("admired", "stayed", "castle", "in"),
        ("locked", "coughed", "door", "behind"),
        ("used", "vanished", "tunnel", "in"),
    ),
    *(
        ("needed", "waited", "ladder", "beside"),
        ("wanted", "smiled", "camera", "at"),
        ("mentioned", "went", "lake", "to"),
    ),
)
TELL = ("told", "reminded", "warned", "convinced", "informed")
EXPLAIN = ("explained", "announced", "mentioned", "whispered", "suggested")
NEWS = (
    *("the train was late", "the shop was closed", "dinner was ready", "the road was icy", "the bridge was safe"),
    *("the water was cold", "the tickets were gone", "the dog was friendly", "the lesson was over", "rain was coming"),
)
ON = (
    *(("relied", "the map"), ("depended", "the weather"), ("insisted", "a refund"), ("commented", "the story")),
    *(("concentrated", "the game"), ("spied", "the enemy"), ("elaborated", "the idea"), ("focused", "the lesson")),
)
TO = (
    *(("listened", "the radio"), ("objected", "the noise"), ("replied", "the letter"), ("belonged", "the club")),
    *(("returned", "the village"), ("referred", "the book"), ("adapted", "the cold"), ("talked", "the doctor")),
)
EXPECT = ("expected", "wanted", "needed", "imagined")
PERSUADE = ("told", "convinced", "reminded", "persuaded")
EVENTS = ("storm", "party", "fire", "strike", "concert", "flood", "meeting", "festival", "problem", "market")
GERUND = ("enjoyed", "avoided", "finished", "suggested", "kept", "imagined")
INFINITIVE = ("decided", "hoped", "promised", "agreed", "refused", "managed")
HARD = ("hard", "easy", "difficult", "impossible")
WILLING = ("willing", "eager", "able", "unable")
CHORES = (
    ("climb", "hill"),
    ("cross", "desert"),
    ("repair", "clock"),
    ("lift", "piano"),
    ("clean", "oven"),
    ("find", "key"),
)
EXPERIENCES = (
    *("been to Rome", "seen a whale", "ridden a camel", "written a poem", "lived in Spain", "owned a horse"),
    *("eaten an oyster", "won a prize", "climbed a mountain", "lost a game", "seen the ocean", "been on television"),
)
MASS = ("water", "rice", "sugar", "butter", "money", "oil", "milk", "soap", "flour", "paint")
SIZES = ("red", "small", "clean", "large", "old", "yellow", "warm", "black", "new", "cheap")
NUMBERS = ("two", "three", "four", "five", "six", "several")
MANNERS = ("slowly", "quickly", "quietly", "carefully", "gently", "often", "easily", "secretly")
HANDLED = ("painted", "washed", "carried", "touched", "moved", "cleaned", "lifted", "wiped")
PARTICLES = (
    ("picked", "up"),
    ("put", "down"),
    ("threw", "away"),
    ("turned", "off"),
    ("took", "out"),
    ("brought", "back"),
)
ENOUGH = (
    *(("soup", "hot", "to eat"), ("boat", "big", "for all of us"), ("rope", "strong", "to hold a horse")),
    *(("room", "warm", "for the baby"), ("knife", "sharp", "to cut the bread"), ("bag", "light", "to carry home")),
    *(("lake", "deep", "for large ships"), ("coat", "long", "for my uncle"), ("street", "wide", "for two trucks")),
    *(("tent", "large", "for six people"), ("story", "short", "for tonight"), ("horse", "calm", "to ride at night")),
)
MEASURES = (
    ("tall", "tower"),
    ("deep", "well"),
    ("old", "church"),
    ("heavy", "bag"),
    ("long", "bridge"),
    ("wide", "river"),
)
PRONOUNS = (("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"))
COMPARED = (
    *(("tall", "taller"), ("fast", "faster"), ("young", "younger"), ("kind", "kinder"), ("strong", "stronger")),
    *(("loud", "louder"), ("short", "shorter"), ("smart", "smarter"), ("calm", "calmer"), ("old", "older")),
)
SONGS = (
    ("songs", "sing"),
    ("games", "play"),
    ("films", "watch"),
    ("letters", "write"),
    ("books", "read"),
    ("hills", "climb"),
)
