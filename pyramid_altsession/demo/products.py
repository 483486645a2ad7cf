"""What the shop sells."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """``art`` is drawn in ``templates/art.jinja2`` under the same id."""

    id: str
    cents: int
    name: Mapping[str, str]
    line: Mapping[str, str]
    about: Mapping[str, str]

    @property
    def key(self) -> str:
        """Its key in a session: one for each product, so that two tabs that add different
        things never meet, and ``increment`` sees to the same thing added twice."""
        return f"cart.{self.id}"


PRODUCTS = {
    product.id: product
    for product in (
        Product(
            "teapot",
            3400,
            {"en": "Teapot", "de": "Teekanne"},
            {"en": "Stoneware, holds four cups.", "de": "Steinzeug, für vier Tassen."},
            {
                "en": (
                    "It is thrown on a wheel and glazed inside and out. The spout pours"
                    " without a drip, and the lid stays on when you tilt the pot."
                ),
                "de": (
                    "Auf der Scheibe gedreht, innen und außen glasiert. Die Tülle tropft"
                    " nicht, und der Deckel bleibt beim Neigen liegen."
                ),
            },
        ),
        Product(
            "cup",
            1250,
            {"en": "Cup and saucer", "de": "Tasse mit Untertasse"},
            {"en": "Thin rim, wide handle.", "de": "Dünner Rand, weiter Henkel."},
            {
                "en": (
                    "The cup holds 0.2 litres. The saucer has a rim, so what is spilled"
                    " stays on it."
                ),
                "de": (
                    "Die Tasse fasst 0,2 Liter. Die Untertasse hat einen Rand, damit"
                    " bleibt, was überläuft."
                ),
            },
        ),
        Product(
            "assam",
            890,
            {"en": "Assam, 100\u00a0g", "de": "Assam, 100\u00a0g"},
            {"en": "Malty leaves in a tin.", "de": "Malzige Blätter in der Dose."},
            {
                "en": (
                    "From a garden on the south bank of the Brahmaputra, picked in June."
                    " Four minutes in boiling water; it takes milk well."
                ),
                "de": (
                    "Aus einem Garten am Südufer des Brahmaputra, im Juni gepflückt. Vier"
                    " Minuten in kochendem Wasser; verträgt Milch gut."
                ),
            },
        ),
        Product(
            "infuser",
            560,
            {"en": "Infuser", "de": "Teesieb"},
            {"en": "Fine mesh on a chain.", "de": "Feines Netz an einer Kette."},
            {
                "en": (
                    "It is made of stainless steel and holds leaves for one cup. The chain"
                    " has a hook for the rim."
                ),
                "de": (
                    "Aus Edelstahl, fasst die Blätter für eine Tasse. Die Kette hat einen"
                    " Haken für den Rand."
                ),
            },
        ),
        Product(
            "honey",
            720,
            {"en": "Linden honey", "de": "Lindenhonig"},
            {"en": "From the trees behind us.", "de": "Von den Bäumen hinterm Haus."},
            {
                "en": (
                    "Linden trees blossom for two weeks in July; the bees fill about forty"
                    " jars in that time. It stays liquid until winter."
                ),
                "de": (
                    "Die Linden blühen im Juli zwei Wochen lang; in dieser Zeit füllen die"
                    " Bienen etwa vierzig Gläser. Bis zum Winter bleibt er flüssig."
                ),
            },
        ),
        Product(
            "biscuits",
            430,
            {"en": "Oat biscuits", "de": "Haferkekse"},
            {"en": "A dozen, for dunking.", "de": "Ein Dutzend, zum Eintunken."},
            {
                "en": (
                    "Baked from rolled oats, butter and a little salt. They keep their"
                    " shape in hot tea for some seconds."
                ),
                "de": (
                    "Aus Haferflocken, Butter und etwas Salz gebacken. In heißem Tee"
                    " behalten sie einige Sekunden lang ihre Form."
                ),
            },
        ),
    )
}


def price(cents: int, language: str) -> str:
    """An amount in euros, as the language writes it."""
    amount = f"{cents // 100}.{cents % 100:02d}"
    return f"€{amount}" if language == "en" else f"{amount.replace('.', ',')} €"
